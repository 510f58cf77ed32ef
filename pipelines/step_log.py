"""What each finished step tells MLflow. A job submitted again sends what an outage left out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memvp_train.metrics import read_metrics
from pipelines import benchmark_report
from pipelines.paths import METRICS_NAME
from pipelines.report import results_table
from pipelines.steps import FinishedStep
from pipelines.tracking import Tracker


def log_step(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    """Send the step's datasets, curves, figures and tables; `run_id` "" sends nothing."""
    _LOGGERS[step.record.step.partition("/")[0]](tracker, run_id, step)
    tracker.log_numbers(run_id, {"step_seconds": step.record.seconds})


def log_report(tracker: Tracker, report: Mapping[str, Any], *, folder: Path) -> None:
    """The job's results on the parent run."""
    numbers = {f"accuracy/{row}": scores["accuracy"] for row, scores in report["rows"].items()}
    numbers |= {f"seconds/{step}": seconds for step, seconds in report["seconds"].items()}
    numbers |= {f"trainable_parameters/{stage}": count for stage, count in report["trainable_parameters"].items()}
    tracker.log_numbers(tracker.parent_id, {**numbers, "image_memory_bytes": report["image_memory_bytes"]})
    for name in ("report.json", "report.md"):
        tracker.log_file(tracker.parent_id, folder / name)
    if report["rows"]:
        tracker.log_table(tracker.parent_id, name="results.json", columns=_columns(*results_table(report)))
    for path in report["figures"]:
        tracker.log_file(tracker.parent_id, Path(path), folder="figures")


def _columns(header: list[str], lines: list[list[str]]) -> dict[str, list[str]]:
    return {title: [line[number] for line in lines] for number, title in enumerate(header)}


def _log_build(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    for name, count in step.record.summary["samples"].items():
        path = f"samples/{name}.parquet"
        digest = step.record.outputs[path]["sha256"]
        tracker.log_dataset(
            run_id, name=f"samples-{name}", digest=digest, source=str(step.folder / path), profile={"samples": count}
        )
    _log_manifest(tracker, run_id, step, name="images")


def _log_features(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    _log_manifest(tracker, run_id, step, name="features")


def _log_manifest(tracker: Tracker, run_id: str, step: FinishedStep, *, name: str) -> None:
    summary = step.record.summary
    tracker.log_dataset(
        run_id,
        name=name,
        digest=summary[f"{name}_digest"],
        source=str(step.folder / name),
        profile={"images": summary["images"]},
    )


def _log_stage(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    tracker.log_curves(run_id, read_metrics(step.folder / METRICS_NAME))
    summary = step.record.summary
    tracker.log_numbers(run_id, {name: summary[name] for name in ("trainable_parameters", "final_loss")})


def _log_evaluation(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    numbers: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for row, slices in step.record.summary["scores"].items():
        for name, score in slices.items():
            numbers[f"accuracy/{row}/{name}"] = score["accuracy"]
            parts = {"all": score, **score["by_task"]}
            rows += [
                {"row": row, "slice": name, "task": task or "-", "accuracy": part["accuracy"], "n": part["n"]}
                for task, part in parts.items()
            ]
    tracker.log_numbers(run_id, numbers)
    if rows:
        tracker.log_table(run_id, name="scores.json", columns={key: [row[key] for row in rows] for key in rows[0]})
    for path in step.record.summary["figures"]:
        tracker.log_file(run_id, step.folder / path, folder="figures")
    for path in step.record.outputs:
        if path.startswith("predictions/"):
            tracker.log_file(run_id, step.folder / path, folder=str(Path(path).parent))


def _log_nothing(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    """Registration logs its model itself."""


def _log_answers(tracker: Tracker, run_id: str, step: FinishedStep) -> None:
    numbers: dict[str, float] = {}
    for one in step.record.summary["answered"]:
        place = f"{one['benchmark']}_{one['split']}/{one['row']}"
        found = {f"{place}/{name}": score["value"] for name, score in one["report"]["scores"].items()}
        numbers |= {_metric_name(name): value for name, value in found.items() if value is not None}
        tracker.log_file(run_id, step.folder / one["predictions"], folder=str(Path(one["predictions"]).parent))
    tracker.log_numbers(run_id, numbers)
    tracker.log_file(run_id, step.folder / "scores.json")


def _metric_name(name: str) -> str:
    """MLflow takes letters, digits and `_-./ :` in a name."""
    return re.sub(r"[^\w\-./ :]", "_", name)


def log_benchmark_report(tracker: Tracker, report: Mapping[str, Any], *, folder: Path) -> None:
    """The scores of a job on benchmarks on its parent run."""
    numbers = {
        _metric_name(f"{benchmark}/{row}/{name}"): score["value"]
        for benchmark, rows in report["benchmarks"].items()
        for row, scored in rows.items()
        for name, score in itertools.islice(scored["scores"].items(), 1)
        if score["value"] is not None
    }
    numbers |= {f"seconds/{step}": seconds for step, seconds in report["seconds"].items()}
    if report["trainable_parameters"] is not None:
        numbers["trainable_parameters"] = report["trainable_parameters"]
    tracker.log_numbers(tracker.parent_id, numbers)
    for name in ("report.json", "report.md"):
        tracker.log_file(tracker.parent_id, folder / name)
    columns = _columns(*benchmark_report.results_table(report))
    tracker.log_table(tracker.parent_id, name="results.json", columns=columns)


_LOGGERS: dict[str, Callable[[Tracker, str, FinishedStep], None]] = {
    "build_shards": _log_build,
    "extract_features": _log_features,
    "stage1": _log_stage,
    "stage2": _log_stage,
    "tune": _log_stage,
    "answers": _log_answers,
    "evaluate": _log_evaluation,
    "register": _log_nothing,
}
