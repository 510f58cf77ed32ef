"""What each finished step tells MLflow. A job submitted again sends what an outage left out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_train.training.metrics_log import read_metrics
from pipelines.data.sources import test_table
from pipelines.evaluation.model_states import ROWS
from pipelines.reports import benchmarks
from pipelines.reports.instruct import results_table
from pipelines.tracking.gate import REASON_TAG
from pipelines.tracking.mlflow import Tracker
from pipelines.workflow.digests import digest_file
from pipelines.workflow.paths import METRICS_NAME
from pipelines.workflow.run_folder import read_json
from pipelines.workflow.step import FinishedStep

_LONGEST_NOTE = 8000
"""Characters of a tag; a run's note, which its page shows as Markdown, is one."""


@dataclass(frozen=True)
class _Run:
    """One step's run, and what its record is made of."""

    tracker: Tracker
    id: str
    step: FinishedStep
    inputs: Mapping[str, FinishedStep]

    @property
    def summary(self) -> dict[str, Any]:
        return self.step.record.summary

    def log_numbers(self, numbers: Mapping[str, float], *, of: str = "") -> None:
        self.tracker.log_numbers(self.id, numbers, of=of)


def log_step(tracker: Tracker, run_id: str, step: FinishedStep, *, inputs: Mapping[str, FinishedStep]) -> None:
    """Send the step's datasets, curves, checkpoints, figures and tables; `run_id` "" sends nothing.

    `inputs` are the finished steps it read, by their role.
    """
    run = _Run(tracker, run_id, step, inputs)
    _LOGGERS[step.record.step.partition("/")[0]](run)
    run.log_numbers({"step_seconds": step.record.seconds})


def log_report(tracker: Tracker, report: Mapping[str, Any], *, folder: Path, pictures: Iterable[Path]) -> None:
    """The job's results on the parent run."""
    numbers = {f"accuracy/{row}": scores["accuracy"] for row, scores in report["rows"].items()}
    numbers |= {f"trainable_parameters/{stage}": count for stage, count in report["trainable_parameters"].items()}
    numbers["image_memory_bytes"] = report["image_memory_bytes"]
    table = _columns(*results_table(report)) if report["rows"] else {}
    _log_results(tracker, report, numbers=numbers, table=table, folder=folder, pictures=pictures)


def log_benchmark_report(
    tracker: Tracker, report: Mapping[str, Any], *, folder: Path, pictures: Iterable[Path]
) -> None:
    """The scores of a job on benchmarks on its parent run."""
    numbers = {
        _metric_name(f"{benchmark}/{row}/{name}"): score["value"]
        for benchmark, rows in report["benchmarks"].items()
        for row, scored in rows.items()
        for name, score in itertools.islice(scored["scores"].items(), 1)
        if score["value"] is not None
    }
    if report["trainable_parameters"] is not None:
        numbers["trainable_parameters"] = report["trainable_parameters"]
    table = _columns(*benchmarks.results_table(report))
    _log_results(tracker, report, numbers=numbers, table=table, folder=folder, pictures=pictures)


def _log_results(
    tracker: Tracker,
    report: Mapping[str, Any],
    *,
    numbers: Mapping[str, float],
    table: Mapping[str, list[str]],
    folder: Path,
    pictures: Iterable[Path],
) -> None:
    seconds = {f"seconds/{step}": seconds for step, seconds in report["seconds"].items()}
    tracker.log_numbers(tracker.parent_id, {**numbers, **seconds})
    if report["registered_model"] is not None:
        tracker.tag(tracker.parent_id, {REASON_TAG: report["registered_model"]["reason"]})
    tracker.tag(
        tracker.parent_id, {"mlflow.note.content": (folder / "report.md").read_text(encoding="utf-8")[:_LONGEST_NOTE]}
    )
    for name in ("report.html", "report.json", "report.md"):
        tracker.log_file(tracker.parent_id, folder / name)
    if table:
        tracker.log_table(tracker.parent_id, name="results.json", columns=table)
    for path in pictures:
        tracker.log_file(tracker.parent_id, path, folder="figures")


def _columns(header: list[str], lines: list[list[str]]) -> dict[str, list[str]]:
    return {title: [line[number] for line in lines] for number, title in enumerate(header)}


def _metric_name(name: str) -> str:
    """MLflow takes letters, digits and `_-./ :` in a name."""
    return re.sub(r"[^\w\-./ :]", "_", name)


def _log_build(run: _Run) -> None:
    for name in run.summary["samples"]:
        _log_table(run, run.step, name, context=_context_of(name))
    if "images_digest" in run.summary:
        _log_manifest(run, run.step, name="images")


def _log_features(run: _Run) -> None:
    _log_manifest(run, run.step, name="features")


def _context_of(table: str) -> str:
    trained = table in ("stage1", "stage2", "tune")
    return "training" if trained else "validation" if table == "validation" else "evaluation"


def _log_table(run: _Run, built: FinishedStep, name: str, *, context: str) -> None:
    """A samples table, by its SHA-256, on the step's run and on the job's."""
    path = f"samples/{name}.parquet"
    for run_id in (run.id, run.tracker.parent_id):
        run.tracker.log_dataset(
            run_id,
            name=f"samples-{name}",
            digest=built.record.outputs[path]["sha256"],
            source=str(built.folder / path),
            profile={"samples": built.record.summary["samples"][name]},
            context=context,
        )


def _log_manifest(run: _Run, made: FinishedStep, *, name: str) -> None:
    """Image or feature shards, by the digest of their manifest, on the step's run and on the job's."""
    summary = made.record.summary
    for run_id in (run.id, run.tracker.parent_id):
        run.tracker.log_dataset(
            run_id,
            name=name,
            digest=summary[f"{name}_digest"],
            source=str(made.folder / name),
            profile={"images": summary["images"]},
        )


def _log_stage(run: _Run) -> None:
    built, stored = run.inputs["build_shards"], run.inputs.get("extract_features")
    for name in (run.step.record.step, "validation"):
        if name in built.record.summary["samples"]:
            _log_table(run, built, name, context=_context_of(name))
    if stored is not None:
        _log_manifest(run, stored, name="features")
    run.tracker.log_curves(run.id, read_metrics(run.step.folder / METRICS_NAME))
    numbers = {name: run.summary[name] for name in ("trainable_parameters", "final_loss")}
    run.log_numbers(numbers)
    _log_checkpoints(run)
    _log_model(
        run, "adapter", step=run.summary["steps"], digest=run.step.record.digest, folder="adapter", numbers=numbers
    )


def _log_checkpoints(run: _Run) -> None:
    """Those that are still kept: training holds on to a few, and the adapter is made of the last."""
    for state in sorted(run.step.folder.glob("*/**/state.json")):
        step = (read_json(state) or {}).get("step")
        if step is None:
            continue
        rows = [row for row in read_metrics(run.step.folder / METRICS_NAME) if row["step"] == step]
        numbers = {name: row[name] for row in rows for name in ("loss", "validation_loss") if name in row}
        folder = str(state.parent.relative_to(run.step.folder))
        _log_model(run, f"step-{step}", step=step, digest=digest_file(state), folder=folder, numbers=numbers)


def _log_model(run: _Run, name: str, *, step: int, digest: str, folder: str, numbers: Mapping[str, float]) -> None:
    run.tracker.log_checkpoint(
        run.id,
        name=f"{run.step.record.step}-{name}",
        step=step,
        digest=digest,
        folder=run.step.folder / folder,
        numbers=numbers,
    )


def _log_evaluation(run: _Run) -> None:
    lines: list[dict[str, Any]] = []
    tables = dict.fromkeys(name for slices in run.summary["scores"].values() for name in slices)
    for name in tables:
        _log_table(run, run.inputs["build_shards"], name, context="evaluation")
    adapters = {row.name: run.inputs[row.adapter].record.digest for row in ROWS if row.with_adapter}
    for row, slices in run.summary["scores"].items():
        numbers = {f"accuracy/{row}/{name}": score["accuracy"] for name, score in slices.items()}
        run.log_numbers(numbers, of=adapters.get(row, ""))
        for name, score in slices.items():
            parts = {"all": score, **score["by_task"]}
            lines += [
                {"row": row, "slice": name, "task": task or "-", "accuracy": part["accuracy"], "n": part["n"]}
                for task, part in parts.items()
            ]
    if lines:
        columns = {key: [line[key] for line in lines] for key in lines[0]}
        run.tracker.log_table(run.id, name="scores.json", columns=columns)
    for path in run.summary["figures"]:
        run.tracker.log_file(run.id, run.step.folder / path, folder="figures")
    for path in run.step.record.outputs:
        if path.startswith("predictions/"):
            run.tracker.log_file(run.id, run.step.folder / path, folder=str(Path(path).parent))


def _log_nothing(run: _Run) -> None:
    """Registration logs its model itself."""


def _log_answers(run: _Run) -> None:
    tuned = run.inputs.get("tuned")
    for one in run.summary["answered"]:
        _log_table(run, run.inputs["build_shards"], test_table(one["split"]), context="evaluation")
        place = f"{one['benchmark']}_{one['split']}/{one['row']}"
        found = {f"{place}/{name}": score["value"] for name, score in one["report"]["scores"].items()}
        numbers = {_metric_name(name): value for name, value in found.items() if value is not None}
        run.log_numbers(numbers, of=tuned.record.digest if tuned is not None else "")
        run.tracker.log_file(run.id, run.step.folder / one["predictions"], folder=str(Path(one["predictions"]).parent))
    run.tracker.log_file(run.id, run.step.folder / "scores.json")


_LOGGERS: dict[str, Callable[[_Run], None]] = {
    "build_shards": _log_build,
    "extract_features": _log_features,
    "stage1": _log_stage,
    "stage2": _log_stage,
    "tune": _log_stage,
    "answers": _log_answers,
    "evaluate": _log_evaluation,
    "register": _log_nothing,
}
