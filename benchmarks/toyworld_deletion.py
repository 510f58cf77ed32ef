"""The deletion test on a finished toy-world job: `python benchmarks/toyworld_deletion.py --job runs/toyworld --out D`.

For each task, blocks the rows that the maps of its questions call strong and counts right answers, against random rows;
for colours and shapes also against the map of another question about the same image. Writes one JSON file, the curve
of colours and shapes, and some maps as pictures. Takes some minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

import torch

from memvp_core import MemVPModel, VisualMemory
from memvp_core.locate import mask_rows, mean_over_layers, mean_over_tokens, on_grid, retrieval_map
from memvp_core.locate.faithfulness import DeletionCurve, deletion_curve
from memvp_core.locate.plots import draw_deletion_curve, draw_retrieval_map
from memvp_data.features import FeatureStore
from memvp_data.metrics.accuracy import normalise
from memvp_data.samples import Sample, read_samples
from memvp_data.shards.reader import ShardReader
from memvp_data.text import encode_prompt
from memvp_train.config import LanguageModelConfig
from memvp_train.models.language import build_language_model, build_tokenizer

LANGUAGE = LanguageModelConfig(path="toyworld/language")
TASKS = ("colour", "shape", "choice", "exist", "spatial", "compare", "count")
NUM_PICTURES = 4


class Questions:
    """Some questions, each with the memory of its own image, and a model that answers them."""

    def __init__(self, samples: list[Sample], *, model: MemVPModel, tokenizer: Any, features: FeatureStore) -> None:
        self.samples, self._model, self._tokenizer = samples, model, tokenizer
        prompts = [encode_prompt(sample, tokenizer=tokenizer, template="toyworld") for sample in samples]
        length = max(map(len, prompts))
        self.ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + list(row) for row in prompts])
        self.mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in prompts])
        self.memory = model.encode(features.load([sample.image_ids[0] for sample in samples]))

    @torch.inference_mode()
    def right(self, memory: VisualMemory) -> torch.Tensor:
        """Which questions are answered right when question i reads entry i; 1.0 or 0.0."""
        out = self._model.generate(
            self.ids, attention_mask=self.mask, memory=memory, max_new_tokens=4, do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
        )  # fmt: skip
        texts = self._tokenizer.batch_decode(out[:, self.ids.shape[1] :], skip_special_tokens=True)
        right = [normalise(text) in map(normalise, one.answers) for text, one in zip(texts, self.samples, strict=True)]
        return torch.tensor(right).double()

    def accuracy(self, memory: VisualMemory) -> float:
        """Share of right answers."""
        return float(self.right(memory).mean())

    def strengths(self) -> dict[str, torch.Tensor]:
        """(questions, rows) each: mean over layers of the map, over all words or at the one before the answer."""
        scores = retrieval_map(self._model, input_ids=self.ids, attention_mask=self.mask, memory=self.memory)
        scores = mean_over_layers(scores)
        return {"all words": mean_over_tokens(scores, mask=self.mask), "last word": scores[:, -1]}

    def curve(self, strength: torch.Tensor) -> DeletionCurve:
        """Accuracy against the share of rows that are masked."""
        return deletion_curve(self.accuracy, memory=self.memory, strength=strength, num_random_orders=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="folder of a finished toy-world job")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folders = {name: next(args.job.glob(f"{name}/*/")) for name in ("build_shards", "extract_features", "stage2")}
    model = MemVPModel.from_pretrained(build_language_model(LANGUAGE), folders["stage2"] / "adapter").eval()
    features = FeatureStore(folders["extract_features"] / "features")
    having = {"model": model, "tokenizer": build_tokenizer(LANGUAGE), "features": features}
    samples = list(read_samples(folders["build_shards"] / "samples" / "image.parquet"))
    random.Random(args.seed).shuffle(samples)
    found: dict[str, Any] = {}
    for task in TASKS:
        asked = [sample for sample in samples if sample.task == task][: args.num_questions]
        questions = Questions(asked, **having)
        found[task] = {name: results(questions.curve(one)) for name, one in questions.strengths().items()}
    questions, others = (Questions(asked[: args.num_questions], **having) for asked in pairs_of_questions(samples))
    pictured = questions.strengths()["last word"]
    found["colour or shape"] = {name: results(questions.curve(one)) for name, one in questions.strengths().items()}
    found["colour or shape, by the map of another question"] = {
        name: results(questions.curve(one)) for name, one in others.strengths().items()
    }
    found["colour or shape, two strongest rows masked"] = after_two_rows(questions, others)
    (args.out / "deletion.json").write_text(json.dumps({"n": args.num_questions} | found, indent=1))
    print(*(f"{task}: {json.dumps(result, indent=1)}" for task, result in found.items()), sep="\n")
    draw_deletion_curve(questions.curve(pictured), path=args.out / "curve.png")
    draw_maps(questions, reader=ShardReader(folders["build_shards"] / "images"), out=args.out)


def pairs_of_questions(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """A question for a colour and one for a shape about each image that has both, which comes first as it happens."""
    by_image: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.task in ("colour", "shape"):
            by_image.setdefault(sample.image_ids[0], []).append(sample)
    pairs = [found[:2] for found in by_image.values() if len(found) > 1]
    return [first for first, _ in pairs], [second for _, second in pairs]


def results(curve: DeletionCurve) -> dict[str, Any]:
    rounded = {name: [round(value, 3) for value in getattr(curve, name)] for name in ("strongest", "random", "weakest")}
    return {"faithfulness": round(curve.faithfulness, 3), "shares": list(curve.shares)} | rounded


def after_two_rows(questions: Questions, others: Questions) -> dict[str, float]:
    """Accuracy on the questions whose rows went, and on other ones about the same images."""
    strongest = [_two_strongest(one.strengths()["last word"]) for one in (questions, others)]
    without = mask_rows(questions.memory, strongest[0])
    apart = ~(strongest[0] & strongest[1]).any(dim=1)
    own, other = questions.right(without), others.right(without)
    return {
        "own questions": float(own.mean()),
        "other questions": float(other.mean()),
        "n that share no row with the other": int(apart.sum()),
        "own questions of these": float(own[apart].mean()),
        "other questions of these": float(other[apart].mean()),
        "other questions of these, before": float(others.right(others.memory)[apart].mean()),
    }


def _two_strongest(strength: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(strength, dtype=torch.bool).scatter(1, strength.topk(2).indices, True)


def draw_maps(questions: Questions, *, reader: ShardReader, out: Path) -> None:
    from io import BytesIO

    from PIL import Image

    strength = questions.strengths()["last word"]
    side = math.isqrt(strength.shape[1])
    for number, sample in enumerate(questions.samples[:NUM_PICTURES]):
        (encoded,) = reader.read(sample.image_ids[0]).values()
        draw_retrieval_map(
            Image.open(BytesIO(encoded)),
            on_grid(strength[number], grid=(side, side)),
            title=f"{sample.turns[-1].text} {sample.answers[0]}",
            outlined=strength[number].topk(2).indices.tolist(),
            path=out / f"map{number}.png",
        )


if __name__ == "__main__":
    main()
