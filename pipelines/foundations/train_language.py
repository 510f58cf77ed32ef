"""Train the toy world's language model from scratch, on text alone: `python pipelines/foundations/train_language.py`.

A LLaMA-architecture model of 0.9M parameters reads described scenes and answers questions about them; it never meets an
image or a feature. Answers carry the loss, other words a tenth of it. Look-ups are practised first and the tasks that
compose them are mixed in over the first fifth of the run: composed questions teach nothing before look-ups exist.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from guidance import Look, guidance_loss, looks_of_question, looks_of_things
from mixed_precision import MixedPrecision
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from memvp_data.toyworld.language import ASK, READING, TASKS, Question, caption, phrase
from memvp_data.toyworld.scenes import Scene, sample_scene

LENGTH = 128
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the toy world; punctuation stands alone, a hyphenated place is one word."""
    from memvp_data.toyworld.language import vocabulary

    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\w-]+|[^\w\s]"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def build_model(vocab_size: int, *, hidden: int, layers: int, heads: int, ffn: int, init: float) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        initializer_range=init,
    )
    return LlamaForCausalLM(config)


@dataclass
class Sequence:
    """Tokens of one training sequence, the weight of each in the loss, and where attention should go."""

    ids: list[int]
    weights: list[float]
    looks: list[Look]


class Corpus:
    """Endless sequences: one scene (told nine times in ten) and as many questions about it as fit."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, seed: int):
        self.ids = tokenizer.get_vocab()
        self.rng = Random(seed)

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.split()]

    def sequence(self, *, composed: float) -> Sequence:
        """``composed`` is the share of scored tasks; the rest practises plain look-ups."""
        scene, made = sample_scene(self.rng), Sequence([1], [0.0], [])
        things = list(scene.things)
        if self.rng.random() < 0.8:
            self.rng.shuffle(things)
        is_told = self.rng.random() < 0.92
        told = [(thing, 5 * (k + 1)) for k, thing in enumerate(things)] if is_told else []
        made.looks += looks_of_things([place for _, place in told])
        opening = " ; ".join(phrase(thing) for thing in things) + " . " if is_told else ""
        while True:
            question = self.question(scene, composed=composed)
            prompt = self.encode(f"USER {opening}{question.text} ASSISTANT")
            answer = [*self.encode(question.answer), 2]
            if len(made.ids) + len(prompt) + len(answer) > LENGTH:
                return made
            answer_from = len(made.ids) + len(prompt) - 1
            if told:
                start = answer_from - len(question.text.split())
                made.looks += looks_of_question(question, start=start, answer_from=answer_from, told=told)
            made.ids += prompt + answer
            weight = 0.25 if question.task == "describe" else 1.0
            made.weights += [0.05] * len(prompt) + [weight] * (len(answer) - 1) + [0.2]
            opening = ""

    def question(self, scene: Scene, *, composed: float) -> Question:
        table = ASK if self.rng.random() < composed else READING
        while True:
            question = table[self.rng.choice(list(table))](self.rng, scene)
            if question is not None:
                return question

    def batch(self, size: int, *, composed: float) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, Look]]]:
        """Token ids and loss weights (size, LENGTH), and the looks as (row, Look)."""
        rows = [self.sequence(composed=composed) for _ in range(size)]
        ids = torch.tensor([r.ids + [0] * (LENGTH - len(r.ids)) for r in rows])
        weights = torch.tensor([r.weights + [0.0] * (LENGTH - len(r.ids)) for r in rows])
        return ids, weights, [(i, look) for i, r in enumerate(rows) for look in r.looks]


@torch.no_grad()
def evaluate(model, tokenizer, *, per_task: int, told: bool, seed: int) -> dict[str, float]:
    """Share of right one-word answers by task, each question asked alone after its description."""
    corpus, rng = Corpus(tokenizer, seed=seed), Random(seed)
    right: dict[str, float] = {}
    for task in (*TASKS, "where"):
        rows, answers = [], []
        while len(rows) < per_task:
            scene = sample_scene(rng)
            question = (ASK | READING)[task](rng, scene)
            if question is None:
                continue
            text = f"{caption(scene)} . {question.text}" if told else question.text
            rows.append([1, *corpus.encode(f"USER {text} ASSISTANT")])
            answers.append(corpus.ids[question.answer])
        width = max(map(len, rows))
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        last = torch.tensor([len(r) - 1 for r in rows])
        logits = model(ids).logits[torch.arange(len(rows)), last]
        right[task] = (logits.argmax(-1) == torch.tensor(answers)).float().mean().item()
    right["mean"] = sum(right[t] for t in TASKS) / len(TASKS)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--guidance", type=float, default=0.3)
    parser.add_argument("--init", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--ffn", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    build = partial(
        build_model,
        len(tokenizer),
        hidden=args.hidden,
        layers=args.layers,
        heads=args.heads,
        ffn=args.ffn,
        init=args.init,
    )
    model = build()
    print(sum(p.numel() for p in model.parameters()), "parameters")
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    model.set_attn_implementation("eager")
    training = MixedPrecision(model, lr=args.lr)
    corpus, started, losses, guides = Corpus(tokenizer, seed=args.seed + 1), time.time(), [], [0.0]
    for step in range(args.steps):
        progress = max(step / args.steps, (time.time() - started) / args.seconds)
        if progress >= 1:
            break
        scale = min(1.0, step / 200) * (0.02 + 0.98 * min(1.0, (1 - progress) / 0.4))
        composed = min(0.9, 0.6 + 0.3 * progress / 0.2)
        ids, weights, looks = corpus.batch(args.batch, composed=composed)
        guidance = args.guidance * min(1.0, max(0.0, (0.7 - progress) / 0.3))
        out = model(ids, output_attentions=guidance > 0)
        logits = out.logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (loss * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        losses.append(loss.item())
        if guidance > 0:
            guided = guidance_loss(out.attentions, looks)
            loss = loss + guidance * guided
            guides.append(guided.item())
        loss.backward()
        training.step(scale=scale)
        if step % 100 == 99:
            row = {"step": step + 1, "seconds": round(time.time() - started), "loss": round(sum(losses[-100:]) / 100, 4), "guided": round(sum(guides[-100:]) / len(guides[-100:]), 3)}
            if step % 300 == 299:
                row |= {
                    k: round(100 * v) for k, v in evaluate(model, tokenizer, per_task=200, told=True, seed=99).items()
                }
            print(json.dumps(row), flush=True)
        if step % 1000 == 999:
            save(training.full_precision(build), tokenizer, args.out / f"step{step + 1}")
    save(training.full_precision(build), tokenizer, args.out)
    model = training.full_precision(build)
    print(json.dumps(evaluate(model, tokenizer, per_task=500, told=True, seed=123)))
    print(json.dumps(evaluate(model, tokenizer, per_task=500, told=False, seed=123)))


def save(model, tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
