"""The evaluation step: every model state answers every test slice. Answers become files, scores come from files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from memvp_data.features import FeatureStore
from memvp_data.metrics.accuracy import score_predictions
from memvp_data.samples import Sample, read_samples
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.predict import answer_all
from memvp_train.inference.prediction_job import PredictionJob
from pipelines.config.instruct import JobConfig
from pipelines.data.sources import test_files
from pipelines.evaluation.chosen_questions import choose
from pipelines.evaluation.model_states import ROWS, Row, row_slices
from pipelines.evaluation.retrieval_figure import draw_retrieval_page
from pipelines.evaluation.retrieval_maps import make_panels
from pipelines.workflow.paths import predictions_path, samples_path
from pipelines.workflow.run_folder import write_json
from pipelines.workflow.step import StepContext, StepOutcome


def evaluate(context: StepContext) -> StepOutcome:
    """Predict, score, draw. Answers of an interrupted attempt are kept."""
    slices = tuple(test_files(context.config.data))
    # Rows of one model side by side: then it is loaded once.
    rows = sorted(ROWS, key=lambda row: (row.with_adapter, row.adapter))
    work = [(row, name) for row in rows for name in row_slices(row, slices=slices)]
    with _all_cores():
        _answer(context, work)
        scores = _score_all(context, work)
        write_json(context.folder / "scores.json", scores)
        figures, memory_bytes = _look_inside(context, has_questions="image" in slices)
    outputs = (context.folder / "predictions", context.folder / "scores.json", *figures)
    summary = {
        "scores": scores,
        "image_memory_bytes": memory_bytes,
        "figures": [str(path.relative_to(context.folder)) for path in figures],
    }
    return StepOutcome(outputs=outputs, summary=summary)


def _answer(context: StepContext, work: list[tuple[Row, str]]) -> None:
    (context.folder / "predictions").mkdir(exist_ok=True)
    jobs = {predictions_path(context.folder, row=row.name, name=name): _job(context, row, name) for row, name in work}
    counts = context.inputs["build_shards"].record.summary["samples"]
    context.progress(0, sum(counts[name] for _, name in work))
    map_actors, num_actors = context.services.map_actors()
    answer_all(jobs, map_actors=map_actors, num_actors=num_actors, progress=context.progress)


def _job(context: StepContext, row: Row, name: str) -> PredictionJob:
    config: JobConfig = context.config
    return PredictionJob(
        language=config.language,
        adapter=str(context.inputs[row.adapter].folder / "adapter") if row.with_adapter else None,
        samples=str(samples_path(context.inputs["build_shards"].folder, name)),
        settings=AnswerSettings(
            template=config.stage2.template,
            max_new_tokens=config.evaluate.max_new_tokens,
            batch_size=config.evaluate.batch_size,
        ),
        features=None if row.image == "none" else str(_features(context)),
        image=row.image,
    )


def _features(context: StepContext) -> Path:
    return context.inputs["extract_features"].folder / "features"


def _score_all(context: StepContext, work: list[tuple[Row, str]]) -> dict[str, dict[str, dict[str, Any]]]:
    slices = {name: _samples(context, name) for _, name in work}
    scores: dict[str, dict[str, dict[str, Any]]] = {row.name: {} for row in ROWS}
    for row, name in work:
        with open(predictions_path(context.folder, row=row.name, name=name), encoding="utf-8") as lines:
            score = score_predictions((json.loads(line) for line in lines), slices[name])
        scores[row.name][name] = dataclasses.asdict(score)
    return {row: found for row, found in scores.items() if found}


def _samples(context: StepContext, name: str) -> list[Sample]:
    return list(read_samples(samples_path(context.inputs["build_shards"].folder, name)))


def _look_inside(context: StepContext, *, has_questions: bool) -> tuple[list[Path], int]:
    """Retrieval maps, and the bytes of the memory of one image, as stage 2's model answers from it."""
    folder = context.folder / "figures"
    folder.mkdir(exist_ok=True)
    figures = []
    model, tokenizer = load_tuned(context.config, context.inputs["stage2"].folder / "adapter")
    features = FeatureStore(_features(context))
    asked = [sample for sample in _samples(context, "image") if sample.image_ids] if has_questions else []
    chosen = choose(asked, count=context.config.evaluate.num_pictures)
    if chosen:
        panels = make_panels(
            chosen,
            model=model,
            tokenizer=tokenizer,
            features=features,
            images=context.inputs["build_shards"].folder / "images",
            predictions=context.folder / "predictions",
            template=context.config.stage2.template,
            preprocessing=context.config.vision.preprocessing,
        )
        figures.append(draw_retrieval_page(panels, path=folder / "retrieval.png"))
    zeros = torch.zeros(1, *features.feature_shape, device=next(model.parameters()).device)
    return figures, int(model.encode(zeros).nbytes)


def load_tuned(config: JobConfig, adapter: Path) -> tuple[Any, Any]:
    """Language model with an adapter, in evaluation mode, and its tokenizer."""
    from memvp_core import MemVPModel
    from memvp_train.models.language import build_language_model, build_tokenizer

    model = MemVPModel.from_pretrained(build_language_model(config.language), adapter).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), build_tokenizer(config.language)


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let torch use every core, or $OMP_NUM_THREADS, while the driver computes; the workers have ended by now."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
