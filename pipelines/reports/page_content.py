"""What stands on a job's report page: read from report.json's content and the files of the finished steps."""

from __future__ import annotations

import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.metrics.bootstrap import Difference, Interval
from memvp_data.metrics.pairing import read_predictions
from memvp_data.metrics.suite import score
from memvp_data.samples import Sample, read_samples
from memvp_train.training.metrics_log import read_metrics
from pipelines.config.plain import describe_settings
from pipelines.console.redaction import redacted
from pipelines.data.sources import test_table
from pipelines.evaluation.model_states import ROWS
from pipelines.reports.curves import CHARTS, draw_curves
from pipelines.reports.examples import some_answers
from pipelines.reports.instruct import TASK_ORDER
from pipelines.reports.page import Answer, Benchmark, Page, Picture
from pipelines.workflow.digests import library_versions
from pipelines.workflow.paths import METRICS_NAME, predictions_path, samples_path
from pipelines.workflow.step import FinishedStep

_NUM_ANSWERS = 12
_TUNED = "stage2"
_SLICES = {
    "image": "Image questions",
    "unseen": "Image questions about pairs held out of the training",
    "text_only": "Questions whose answer is in the text",
    "described": "The image questions with the scene as text",
}
_MAP_CAPTION = (
    "Each test image twice: as the vision tower saw it, and under the map of how strongly the answer looked up "
    "each patch, averaged over the layers."
)
_LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "ray", "mlflow", "numpy", "pyarrow", "pillow")
_PACKAGES = ("memvp-core", "memvp-data", "memvp-train")


@dataclass(frozen=True)
class Finished:
    """A job whose steps are all finished."""

    report: Mapping[str, Any]
    """content of report.json"""
    steps: Mapping[str, FinishedStep]
    """by name"""
    settings: Mapping[str, Any]
    """resolved settings without secrets"""
    figures: Path
    """folder for pictures that are drawn now"""


def instruct_page(job: Finished) -> Page:
    """The page of a job of instruction tuning: every model state on every test slice."""
    benchmarks = tuple(_slices(job))
    trained = job.report["trainable_parameters"]
    facts = {
        "trained numbers": f"{trained['stage2']:,}",
        "bytes an image takes as memory": f"{job.report['image_memory_bytes']:,}",
        "minutes, all steps": f"{sum(job.report['seconds'].values()) / 60:.1f}",
    }
    best = job.report["rows"].get(_TUNED)
    if best is not None:
        facts = {"image questions right": f"{100 * best['accuracy']:.1f} %", **facts}
    maps = (Picture(Path(path), _MAP_CAPTION) for path in job.report["figures"])
    return Page(
        title=job.report["name"],
        lead="A language model given sight by memory-space visual prompts: how it was tuned, and what it answers.",
        facts=facts,
        verdict=_verdict(job.report),
        benchmarks=benchmarks,
        pictures={"Training": tuple(_curves(job)), "Where the answers looked": tuple(maps)},
        answers=tuple(_slice_answers(job)),
        **_the_same_again(job),
    )


def benchmarks_page(job: Finished) -> Page:
    """The page of a job on benchmarks: of one tuned task, or of any adapters on any benchmarks."""
    facts = {"minutes, all steps": f"{sum(job.report['seconds'].values()) / 60:.1f}"}
    if job.report["trainable_parameters"] is not None:
        facts = {"trained numbers": f"{job.report['trainable_parameters']:,}", **facts}
    return Page(
        title=job.report["name"],
        lead="Official scores of benchmarks, and how far the rows of each lie apart on the same questions.",
        facts=facts,
        verdict=_verdict(job.report),
        benchmarks=tuple(_official(title, rows) for title, rows in job.report["benchmarks"].items()),
        pictures={"Training": tuple(_curves(job))},
        answers=tuple(_benchmark_answers(job)),
        **_the_same_again(job),
    )


def _verdict(report: Mapping[str, Any]) -> tuple[bool, str] | None:
    model = report["registered_model"]
    if model is None or "reason" not in model:
        return None
    return model["champion"], f"Version {model['version']} of {model['name']}: {model['reason']}."


def _slices(job: Finished) -> Iterator[Benchmark]:
    """One benchmark per test slice; the tuned model against every other row on the same questions."""
    titles = {row.name: row.title for row in ROWS}
    for name, title in _SLICES.items():
        answers = {row: read_predictions(path) for row, path in _slice_predictions(job, name).items()}
        if not answers:
            continue
        samples = list(read_samples(samples_path(job.steps["build_shards"].folder, name)))
        reports = {titles[row]: score("accuracy", rows, samples) for row, rows in answers.items()}
        yield Benchmark(
            title,
            {row: _by_task(report.scores) for row, report in reports.items()},
            _differences(answers, samples=samples, titles=titles),
            notes=tuple(dict.fromkeys(note for report in reports.values() for note in report.notes)),
        )


def _slice_predictions(job: Finished, name: str) -> dict[str, Path]:
    paths = {row.name: predictions_path(job.steps["evaluate"].folder, row=row.name, name=name) for row in ROWS}
    return {row: path for row, path in paths.items() if path.is_file()}


def _differences(
    answers: Mapping[str, list[dict[str, Any]]], *, samples: list[Sample], titles: Mapping[str, str]
) -> dict[str, Difference]:
    if _TUNED not in answers:
        return {}
    others = {row: rows for row, rows in answers.items() if row != _TUNED}
    compared = {row: score("accuracy", answers[_TUNED], samples, other=rows) for row, rows in others.items()}
    return {f"{titles[_TUNED]} minus {titles[row]}": report.differences["accuracy"] for row, report in compared.items()}


def _by_task(scores: Mapping[str, Interval]) -> dict[str, Interval]:
    """ "task colour" -> "colour", the toy world's tasks in their reading order."""
    named = {name.removeprefix("task "): score for name, score in scores.items()}
    first = [name for name in ("accuracy", *TASK_ORDER) if name in named]
    return {name: named[name] for name in (*first, *sorted(named.keys() - set(first)))}


def _official(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Benchmark:
    (first, *_) = rows
    differences = {}
    for row, scored in rows.items():
        headline = next(iter(scored["scores"]))
        if headline in scored["differences"]:
            differences[f"{row} minus {first}, {headline}"] = Difference(**scored["differences"][headline])
    notes = dict.fromkeys(note for scored in rows.values() for note in scored["notes"])
    return Benchmark(
        title,
        {row: {name: _interval(found) for name, found in scored["scores"].items()} for row, scored in rows.items()},
        differences,
        unit="the benchmark's own unit, most of them per cent",
        notes=tuple(notes),
    )


def _interval(found: Mapping[str, Any]) -> Interval:
    """report.json says null where a score is not defined."""
    value, low, high = (math.nan if found[name] is None else found[name] for name in ("value", "low", "high"))
    return Interval(value, low, high, found["n"])


def _curves(job: Finished) -> Iterator[Picture]:
    stages = {name: read_metrics(done.folder / METRICS_NAME) for name, done in job.steps.items()}
    captions = {chart.name: chart.caption for chart in CHARTS}
    for name, path in draw_curves(stages, folder=job.figures).items():
        yield Picture(path, captions[name])


def _slice_answers(job: Finished) -> Iterator[Answer]:
    built = job.steps["build_shards"].folder
    titles = {row.name: row.title for row in ROWS}
    predictions = {titles[row]: path for row, path in _slice_predictions(job, "image").items()}
    if predictions:
        yield from some_answers(
            samples_path(built, "image"), images=built / "images", predictions=predictions, count=_NUM_ANSWERS
        )


def _benchmark_answers(job: Finished) -> Iterator[Answer]:
    """A few of each benchmark."""
    benchmarks = job.report["benchmarks"]
    for title, rows in benchmarks.items():
        benchmark, _, split = title.partition(", ")
        built = job.steps.get(f"build_shards/{benchmark}") or job.steps["build_shards"]
        images = built.folder / "images"
        yield from some_answers(
            samples_path(built.folder, test_table(split)),
            images=images if images.is_dir() else None,
            predictions={row: Path(scored["predictions"]) for row, scored in rows.items()},
            count=max(2, _NUM_ANSWERS // len(benchmarks)),
        )


def _the_same_again(job: Finished) -> dict[str, Any]:
    """Command, settings, versions, digests and seconds: what it takes to get the same, or to see why it differs."""
    return {
        "command": redacted(shlex.join(["python", *sys.argv])),
        "settings": describe_settings(dict(job.settings)),
        "origins": {
            "versions": {"python": platform.python_version(), **library_versions((*_PACKAGES, *_LIBRARIES))},
            "digests (SHA-256) of what each step made": {name: done.record.digest for name, done in job.steps.items()},
            "digests (SHA-256) of the data": dict(_data_digests(job)),
            "seconds": {name: f"{value:.1f}" for name, value in job.report["seconds"].items()},
        },
    }


def _data_digests(job: Finished) -> Iterator[tuple[str, str]]:
    for name, done in job.steps.items():
        summary = done.record.summary
        for path, entry in done.record.outputs.items():
            if path.startswith("samples/"):
                yield f"{name}, {path}", entry["sha256"]
        for kind in ("images", "features"):
            if f"{kind}_digest" in summary:
                yield f"{name}, manifest of {kind}", summary[f"{kind}_digest"]
