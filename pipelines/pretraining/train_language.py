"""Train the toy world's language model from scratch, on text alone: `python pipelines/pretraining/train_language.py`.

A LLaMA-architecture model of 0.9M parameters reads described scenes and answers questions about them; it never meets an
image or a feature. Answers carry the loss, other words a twentieth of it. For the first part of the run attention is
guided (guidance.py); from 0.7 of it on only the answers count. The shipped model: 7,000 steps, 24 minutes on one core.
"""

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

from memvp_data.toyworld.language import ASK, READING, TASKS, Question, caption, phrase, vocabulary
from memvp_data.toyworld.scenes import Scene, sample_scene

LENGTH = 128
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the toy world; punctuation stands alone, a hyphenated place is one word."""
    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\w-]+|[^\w\s]"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def build_model(vocab_size: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        initializer_range=0.05,
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model and its tokenizer")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=24, help="sequences of a step")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--guidance", type=float, default=0.3, help="weight of guided attention; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train_step(model, training: MixedPrecision, corpus: Corpus, *, batch: int, progress: float, guidance: float):
    """One update at ``progress`` (0..1) of the run; (loss of the answers, loss of the guidance)."""
    ids, weights, looks = corpus.batch(batch, composed=min(0.9, 0.6 + 0.3 * progress / 0.2))
    guidance *= min(1.0, max(0.0, (0.7 - progress) / 0.3))
    out = model(ids, output_attentions=guidance > 0)
    logits = out.logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    answered = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
    guided = guidance_loss(out.attentions, looks) if guidance > 0 else torch.zeros(())
    (answered + guidance * guided).backward()
    return answered.item(), guided.item()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    build = partial(build_model, len(tokenizer))
    model = build()
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    model.set_attn_implementation("eager")
    training = MixedPrecision(model, lr=args.learning_rate)
    corpus, started, losses = Corpus(tokenizer, seed=args.seed + 1), time.time(), []
    for step in range(args.steps):
        progress = step / args.steps
        losses.append(train_step(model, training, corpus, batch=args.batch, progress=progress, guidance=args.guidance))
        training.step(scale=min(1.0, step / 200) * (0.02 + 0.98 * min(1.0, (1 - progress) / 0.4)))
        if step % 100 == 99:
            answered, guided = (sum(column) / 100 for column in zip(*losses[-100:], strict=True))
            row = {"step": step + 1, "seconds": round(time.time() - started), "loss": answered, "guided": guided}
            told = evaluate(model, tokenizer, per_task=200, told=True, seed=99) if step % 300 == 299 else {}
            print(json.dumps(row | told), flush=True)
    model = training.full_precision(build)
    save(model.half(), tokenizer, args.out)
    model = model.float()
    print(json.dumps({"told": evaluate(model, tokenizer, per_task=500, told=True, seed=123)}))
    print(json.dumps({"blind": evaluate(model, tokenizer, per_task=500, told=False, seed=123)}))


def save(model, tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
