"""What stands on a job's report page: read from report.json's content, its scores and the files of finished steps."""

import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.metrics.bootstrap import Interval
from memvp_train.training.metrics_log import METRICS_FILE, read_metrics
from pipelines.config.plain import describe_settings
from pipelines.console.redaction import redacted
from pipelines.evaluation.scores import ScoredSet
from pipelines.reports.curves import CHARTS, draw_curves
from pipelines.reports.examples import some_answers
from pipelines.reports.page import Answer, Benchmark, Page, Picture
from pipelines.reports.results import ReportForm
from pipelines.workflow.digests import library_versions
from pipelines.workflow.step import FinishedStep

_NUM_ANSWERS = 12
_FEWEST_ANSWERS = 2
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
    results: Sequence[ScoredSet]
    """who answered what, scored"""
    form: ReportForm
    """how this kind of job reports"""
    steps: Mapping[str, FinishedStep]
    """by name"""
    settings: Mapping[str, Any]
    """resolved settings without secrets"""
    figures: Path
    """folder for pictures that are drawn now"""


def make_page(job: Finished) -> Page:
    """The page of a job."""
    report, form = job.report, job.form
    maps = tuple(Picture(Path(path), _MAP_CAPTION) for path in report.get("figures", ()))
    return Page(
        title=report["name"],
        lead=form.lead,
        facts={**form.facts(report), "minutes, all steps": f"{sum(report['seconds'].values()) / 60:.1f}"},
        verdict=_verdict(report),
        benchmarks=tuple(_benchmark(one, form=form) for one in job.results),
        pictures={"Training": tuple(_curves(job)), **({"Where the answers looked": maps} if maps else {})},
        answers=tuple(_answers(job)),
        **_the_same_again(job),
    )


def _verdict(report: Mapping[str, Any]) -> tuple[bool, str] | None:
    model = report["registered_model"]
    if model is None or "reason" not in model:
        return None
    return model["champion"], f"Version {model['version']} of {model['name']}: {model['reason']}."


def _benchmark(results: ScoredSet, *, form: ReportForm) -> Benchmark:
    """The rows with their intervals, and how far they lie apart on the same questions."""
    headline = next(iter(results.rows[0].report["scores"]))
    compared = results.differences(form.pairs(results))
    of = f", {headline}" if results.benchmark else ""
    return Benchmark(
        form.title(results),
        {row.row: _scores(row.report["scores"], form=form) for row in results.rows},
        {f"{a} minus {b}{of}": found[headline] for (a, b), found in compared.items()},
        unit=form.unit,
        notes=tuple(dict.fromkeys(note for row in results.rows for note in row.report["notes"])),
    )


def _scores(scores: Mapping[str, Any], *, form: ReportForm) -> dict[str, Interval]:
    return {title: _interval(scores[name]) for name, title in form.score_titles(scores).items()}


def _interval(found: Mapping[str, Any]) -> Interval:
    """A report says null where a score is not defined."""
    value, low, high = (math.nan if found[name] is None else found[name] for name in ("value", "low", "high"))
    return Interval(value, low, high, found["n"])


def _curves(job: Finished) -> Iterator[Picture]:
    stages = {name: read_metrics(done.folder / METRICS_FILE) for name, done in job.steps.items()}
    captions = {chart.name: chart.caption for chart in CHARTS}
    for name, path in draw_curves(stages, folder=job.figures).items():
        yield Picture(path, captions[name])


def _answers(job: Finished) -> Iterator[Answer]:
    """A few of each question set that brings images or is the only one."""
    shown = [one for one in job.results if one.benchmark or one.split == "image"]
    for one in shown:
        yield from some_answers(
            one.table,
            images=one.images,
            predictions={row.row: row.predictions for row in one.rows},
            count=max(_FEWEST_ANSWERS, _NUM_ANSWERS // len(shown)),
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
