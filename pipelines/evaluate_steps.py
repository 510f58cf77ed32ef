"""The evaluation step: every model state answers every test slice. Answers become files, scores come from files."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from memvp_data.features import FeatureStore
from memvp_data.metrics.accuracy import score_predictions
from memvp_data.samples import Sample, read_samples
from memvp_train.metrics import read_metrics
from pipelines.config import JobConfig
from pipelines.figures import draw_loss_curves, draw_retrieval_page
from pipelines.paths import METRICS_NAME, predictions_path, samples_path
from pipelines.retrieval_page import choose, make_panels
from pipelines.rows import ROWS, Row, row_slices
from pipelines.step_settings import test_files
from pipelines.steps import StepContext, StepOutcome
from pipelines.storage import write_json


def evaluate(context: StepContext) -> StepOutcome:
    """Predict, score, draw. Answer files of an interrupted attempt are kept."""
    slices = {name: _samples(context, name) for name in test_files(context.config.data)}
    work = [(row, name) for row in ROWS for name in row_slices(row, slices=tuple(slices))]
    (context.folder / "predictions").mkdir(exist_ok=True)
    with _all_cores():
        models = _Models(context)
        _answer_all(context, models=models, slices=slices, work=work)
        scores = _score_all(context.folder, slices=slices, work=work)
        write_json(context.folder / "scores.json", scores)
        figures = _draw(context, models=models, samples=slices.get("image", []))
        memory_bytes = models.image_memory_bytes()
    outputs = (context.folder / "predictions", context.folder / "scores.json", *figures)
    summary = {
        "scores": scores,
        "image_memory_bytes": memory_bytes,
        "figures": [str(path.relative_to(context.folder)) for path in figures],
    }
    return StepOutcome(outputs=outputs, summary=summary)


def _samples(context: StepContext, name: str) -> list[Sample]:
    return list(read_samples(samples_path(context.inputs["build_shards"].folder, name)))


def _answer_all(
    context: StepContext, *, models: _Models, slices: dict[str, list[Sample]], work: list[tuple[Row, str]]
) -> None:
    done, total = 0, sum(len(slices[name]) for _, name in work)
    for row, name in work:
        out = predictions_path(context.folder, row=row.name, name=name)
        if not out.is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            models.answer(row, slices[name], out=out, progress=lambda n, start=done: context.progress(start + n, total))
        done += len(slices[name])
        context.progress(done, total)


class _Models:
    """Holds the model of one stage at a time: two copies of a 7B model would not fit where one does."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.features = FeatureStore(context.inputs["extract_features"].folder / "features")
        self._stage = ""
        self._model: Any = None
        self._tokenizer: Any = None

    def get(self, stage: str) -> tuple[Any, Any]:
        """Model with the stage's adapter, and tokenizer."""
        if self._stage != stage:
            self._model = None
            gc.collect()
            folder = self.context.inputs[stage].folder / "adapter"
            self._model, self._tokenizer = load_tuned(self.context.config, folder)
            self._stage = stage
        return self._model, self._tokenizer

    def answer(self, row: Row, samples: list[Sample], *, out: Path, progress: Callable[[int], None]) -> None:
        """Write the row's answers to `out`."""
        from memvp_train.predict import predict

        model, tokenizer = self.get(row.adapter)
        config = self.context.config
        with nullcontext() if row.with_adapter else model.disable_adapter():
            predict(
                model,
                tokenizer,
                samples,
                self.features,
                template=config.stage2.template,
                out_path=out,
                batch_size=config.evaluate.batch_size,
                image=row.image,
                max_new_tokens=config.evaluate.max_new_tokens,
                progress=progress,
            )

    def image_memory_bytes(self) -> int:
        """Bytes of the memory of one image, as stage 2's model answers from it."""
        model, _ = self.get("stage2")
        device = next(model.parameters()).device
        return int(model.encode(torch.zeros(1, *self.features.feature_shape, device=device)).nbytes)


def load_tuned(config: JobConfig, adapter: Path) -> tuple[Any, Any]:
    """Language model with an adapter, in evaluation mode, and its tokenizer."""
    from memvp_core import MemVPModel
    from memvp_train.models import build_language_model, build_tokenizer

    model = MemVPModel.from_pretrained(build_language_model(config.language), adapter).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), build_tokenizer(config.language)


def _score_all(
    folder: Path, *, slices: dict[str, list[Sample]], work: list[tuple[Row, str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for row, name in work:
        with open(predictions_path(folder, row=row.name, name=name), encoding="utf-8") as lines:
            score = score_predictions((json.loads(line) for line in lines), slices[name])
        scores.setdefault(row.name, {})[name] = dataclasses.asdict(score)
    return scores


def _draw(context: StepContext, *, models: _Models, samples: list[Sample]) -> list[Path]:
    folder = context.folder / "figures"
    folder.mkdir(exist_ok=True)
    curves = {name: read_metrics(context.inputs[name].folder / METRICS_NAME) for name in ("stage1", "stage2")}
    figures = [draw_loss_curves(curves, path=folder / "loss_curves.png")]
    chosen = choose([sample for sample in samples if sample.image_ids], count=context.config.evaluate.num_pictures)
    if chosen:
        model, tokenizer = models.get("stage2")
        panels = make_panels(
            chosen,
            model=model,
            tokenizer=tokenizer,
            features=models.features,
            images=context.inputs["build_shards"].folder / "images",
            predictions=context.folder / "predictions",
            template=context.config.stage2.template,
            preprocessing=context.config.vision.preprocessing,
        )
        figures.append(draw_retrieval_page(panels, path=folder / "retrieval.png"))
    return figures


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let torch use every core, or $OMP_NUM_THREADS, while the driver computes; the workers have ended by now."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
