"""Train the toy world's language model from scratch, on text alone: `python pipelines/foundations/train_language.py`.

A LLaMA-architecture model of 0.9M parameters reads described scenes and answers questions about them; it never meets an
image or a feature. Answers carry the loss, other words a tenth of it. Look-ups are practised first and the tasks that
compose them are mixed in over the first fifth of the run: composed questions teach nothing before look-ups exist.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from random import Random

import torch
from mixed_precision import MixedPrecision
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from memvp_data.toyworld.language import ASK, READING, TASKS, Question, caption, phrase
from memvp_data.toyworld.scenes import sample_scene

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


def build_model(vocab_size: int, *, hidden: int, layers: int, heads: int, ffn: int) -> LlamaForCausalLM:
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
        initializer_range=hidden**-0.5,  # the usual 0.02 suits wide models; here look-ups would form an hour later
    )
    return LlamaForCausalLM(config)


class Corpus:
    """Endless sequences of 128 tokens: one scene (told nine times in ten) and as many questions as fit."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, seed: int):
        self.ids = tokenizer.get_vocab()
        self.rng = Random(seed)

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in text.split()]

    def restatements(self) -> tuple[list[int], list[float]]:
        """A scene told again and again, each time in another order: what induction heads are learnt from."""
        scene, ids, weights = sample_scene(self.rng), [1], [0.0]
        while len(ids) < LENGTH:
            again = len(ids) > 1
            for thing in self.rng.sample(scene.things, len(scene.things)):
                ids += [*self.encode(phrase(thing)), self.ids[";"]]
                weights += [0.0, 1.0, 1.0, 1.0, 0.0] if again else [0.05] * 5
        return ids[:LENGTH], weights[:LENGTH]

    def sequence(self, *, composed: float) -> tuple[list[int], list[float]]:
        rng = self.rng
        scene = sample_scene(rng)
        told = caption(scene, order=rng if rng.random() < 0.8 else None) if rng.random() < 0.92 else None
        ids, weights = [1], [0.0]
        first = True
        while True:
            question = self.question(scene, composed=composed)
            text = f"{told} . {question.text}" if first and told else question.text
            prompt, answer = self.encode(f"USER {text} ASSISTANT"), [*self.encode(question.answer), 2]
            if len(ids) + len(prompt) + len(answer) > LENGTH:
                break
            first = False
            weight = 0.25 if question.task == "describe" else 1.0
            ids += prompt + answer
            weights += [0.05] * len(prompt) + [weight] * (len(answer) - 1) + [0.2]
        pad = LENGTH - len(ids)
        return ids + [0] * pad, weights + [0.0] * pad

    def question(self, scene, *, composed: float) -> Question:
        table = ASK if self.rng.random() < composed else READING
        tasks = list(table)
        if table is ASK and composed < 0.7:
            tasks = ["colour", "shape"] * 2 + tasks
        while True:
            question = table[self.rng.choice(tasks)](self.rng, scene)
            if question is not None:
                return question

    def batch(self, size: int, *, restated: float, composed: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and loss weights (size, 128)."""
        rows = [
            self.restatements() if self.rng.random() < restated else self.sequence(composed=composed)
            for _ in range(size)
        ]
        return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])


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
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
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
    build = partial(build_model, len(tokenizer), hidden=args.hidden, layers=args.layers, heads=args.heads, ffn=args.ffn)
    model = build()
    print(sum(p.numel() for p in model.parameters()), "parameters")
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    model.set_attn_implementation("eager")
    training = MixedPrecision(model, lr=args.lr)
    corpus, started, losses = Corpus(tokenizer, seed=args.seed + 1), time.time(), []
    for step in range(args.steps):
        progress = max(step / args.steps, (time.time() - started) / args.seconds)
        if progress >= 1:
            break
        scale = min(1.0, step / 200) * (0.02 + 0.98 * min(1.0, (1 - progress) / 0.4))
        restated = max(0.05, 1 - max(0.0, progress - 0.05) / 0.03)
        composed = min(0.9, 0.3 + 0.6 * max(0.0, progress - 0.08) / 0.2)
        ids, weights = corpus.batch(args.batch, restated=restated, composed=composed)
        logits = model(ids).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (loss * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()
        training.step(scale=scale)
        losses.append(loss.item())
        if step % 100 == 99:
            row = {"step": step + 1, "seconds": round(time.time() - started), "loss": sum(losses[-100:]) / 100}
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
