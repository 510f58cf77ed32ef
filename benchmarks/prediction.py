"""What `answer` costs beside a bare loop of `model.generate` over the same questions: `make bench-predict`.

The bare loop is given what `answer` has to make: prompts as padded tensors, features of a batch's images as one tensor,
and batches of like length. It writes no file. Its second form takes the questions in their order, as a loop would that
somebody writes in a minute. All ways give the same answers, and the model is loaded before the clock starts.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from measuring import interleaved, machine_line, parser, ratio, seconds, set_up, write_result
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memvp_core import MemVPConfig, get_memvp_model
from memvp_data.features import FeatureStore, feature_record
from memvp_data.samples import Sample, Turn, read_samples, write_samples
from memvp_data.shards import write_shards
from memvp_data.text import encode_prompt
from memvp_train.config import LanguageModelConfig
from memvp_train.inference.generate import AnswerSettings, padded
from memvp_train.inference.predict import ShardAnswerer, answer, map_in_process
from memvp_train.inference.prediction_job import PredictionJob
from memvp_train.models.language import build_language_model

NUM_ROWS, WIDTH, QUESTIONS_PER_IMAGE = 64, 256, 4
NEW_TOKENS = 8
SIZES = {64: 192, 8: 64, 1: 16}
SMOKE_SIZES = {2: 8}
WORDS = "what colour is the thing left of the red square and above every large green circle ?".split()
LARGE = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "num_key_value_heads": 4}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}


def make_job(folder: Path, *, num_questions: int, is_smoke: bool) -> PredictionJob:
    """A drawn model with an adapter, and questions of 6 to 60 words, four about each image."""
    sizes = SMALL if is_smoke else LARGE
    overrides = {**sizes, "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}
    language = LanguageModelConfig("toyworld/language", overrides=overrides, random_init=True)
    memvp = MemVPConfig(vision_hidden_size=WIDTH, num_slots=NUM_ROWS, visual_scale=1.0, retrieval_scale=1.0)
    model = get_memvp_model(build_language_model(language), memvp)
    torch.manual_seed(0)
    for parameter in model.trainable_state().values():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")
    draw = random.Random(0)
    images = [f"image-{number:05d}" for number in range(-(-num_questions // QUESTIONS_PER_IMAGE))]
    turns = [(Turn("user", " ".join(draw.choices(WORDS, k=draw.randint(6, 60)))),) for _ in range(num_questions)]
    samples = (Sample(f"q-{n:05d}", (images[n // QUESTIONS_PER_IMAGE],), turn) for n, turn in enumerate(turns))
    write_samples(folder / "samples.parquet", samples)
    records = ((image, {"safetensors": feature_record(torch.randn(NUM_ROWS, WIDTH).half())}) for image in images)
    write_shards(folder / "features", records, kind="features")
    settings = AnswerSettings(template="toyworld", max_new_tokens=NEW_TOKENS)
    paths = {name: str(folder / name) for name in ("adapter", "features")}
    return PredictionJob(language=language, samples=str(folder / "samples.parquet"), settings=settings, **paths)


class BareLoop:
    """`model.generate` over batches that were made before the clock started."""

    def __init__(self, model: Any, tokenizer: Any, job: PredictionJob, *, by_length: bool) -> None:
        self._model, self._tokenizer, self._padding = model, tokenizer, tokenizer.pad_token_id
        samples, store = list(read_samples(job.samples)), FeatureStore(str(job.features))
        prompts = [encode_prompt(sample, tokenizer=tokenizer, template=job.settings.template) for sample in samples]
        self._order = sorted(range(len(samples)), key=lambda n: -len(prompts[n])) if by_length else range(len(samples))
        size = job.settings.batch_size
        parts = [self._order[start : start + size] for start in range(0, len(samples), size)]
        self._batches = [self._batch([prompts[n] for n in part], [samples[n] for n in part], store) for part in parts]

    def _batch(
        self, prompts: Sequence[tuple[int, ...]], samples: Sequence[Sample], store: FeatureStore
    ) -> dict[str, Tensor]:
        ids, mask = padded(prompts, padding=self._padding, on_left=True)
        names = list(dict.fromkeys(sample.image_ids[0] for sample in samples))
        index = torch.tensor([names.index(sample.image_ids[0]) for sample in samples])
        return {"input_ids": ids, "attention_mask": mask, "visual_features": store.load(names), "image_index": index}

    @torch.inference_mode()
    def __call__(self) -> list[str]:
        """Answers in the samples' order."""
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": self._padding}
        texts: list[str] = []
        for batch in self._batches:
            new_ids = self._model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
            texts += self._tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        return [text.strip() for _, text in sorted(zip(self._order, texts, strict=True))]


def measure(job: PredictionJob, *, folder: Path, num_rounds: int) -> dict[str, Any]:
    """Questions per second of each way, and the throughput of `answer` over that of either bare loop."""
    actor, numbers = ShardAnswerer(), count()
    map_loaded = partial(_map_with, actor)

    def answered() -> Path:
        return answer(job, folder / f"out-{next(numbers)}.jsonl", map_actors=map_loaded)

    rows = [json.loads(line) for line in answered().read_text(encoding="utf-8").splitlines()]
    model, tokenizer = actor.loaded.model(job)
    bare = {
        "bare, like lengths": BareLoop(model, tokenizer, job, by_length=True),
        "bare, as they come": BareLoop(model, tokenizer, job, by_length=False),
    }
    for name, loop in bare.items():
        assert loop() == [row["text"] for row in rows], f"{name} gives other answers"
    times = interleaved({"answer": answered, **bare}, num_rounds=num_rounds)
    return {
        "num_questions": len(rows),
        "questions_per_second": {name: len(rows) / seconds(times, name) for name in times},
        "throughput_ratio": {name: ratio(times, name, to="answer") for name in bare},
        "seconds": times,
    }


def _map_with(actor: ShardAnswerer, make: Any, items: Sequence[Any], **settings: Any) -> list[Any]:
    return map_in_process(lambda: actor, items, **settings)


def table_of(found: dict[str, Any]) -> Table:
    """One row per batch size."""
    table = Table(title="Questions per second; throughput of answer over that of the bare loop")
    for column in ("batch", "answer", "bare, like lengths", "bare, as they come", "ratio", "ratio, as they come"):
        table.add_column(column, justify="right")
    for size, numbers in found.items():
        rates, ratios = numbers["questions_per_second"].values(), numbers["throughput_ratio"].values()
        table.add_row(size, *[f"{rate:,.1f}" for rate in rates], *[f"{value:.3f}" for value in ratios])
    return table


def main() -> None:
    """Measure, show and write the result file."""
    options = parser(__doc__).parse_args()
    facts, console, found = set_up(options), Console(), dict[str, Any]()
    num_rounds = options.rounds or (1 if options.smoke else 5)
    for size, num_questions in (SMOKE_SIZES if options.smoke else SIZES).items():
        with tempfile.TemporaryDirectory() as name:
            job = make_job(Path(name), num_questions=num_questions, is_smoke=options.smoke)
            job = replace(job, settings=replace(job.settings, batch_size=size))
            found[str(size)] = measure(job, folder=Path(name), num_rounds=num_rounds)
        console.print(table_of(found))
    shape = {
        "model": LARGE,
        "image_rows": NUM_ROWS,
        "questions_per_image": QUESTIONS_PER_IMAGE,
        "new_tokens": NEW_TOKENS,
    }
    path = write_result(options.out, "prediction", {"shape": shape, "batch_size": found}, facts=facts)
    console.print(machine_line(facts), f"result: {path}", sep="\n")


if __name__ == "__main__":
    main()
