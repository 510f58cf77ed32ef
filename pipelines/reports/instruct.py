"""The end of a job: report.json, the same as Markdown, and what is printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memvp_data.files.atomic import atomic_write
from pipelines.console.redaction import redacted
from pipelines.evaluation.model_states import ROWS
from pipelines.workflow.run_folder import write_json
from pipelines.workflow.step import FinishedStep

# Reading order of the toy world's tasks; tasks of other data follow in alphabetical order.
TASK_ORDER = ("colour", "shape", "count", "exist", "compare", "spatial", "choice")
_EXTRA_SLICES = {"unseen": "unseen pairs", "text_only": "text-only"}


def make_report(finished: Mapping[str, FinishedStep], *, name: str) -> dict[str, Any]:
    """The content of report.json. Accuracies lie between 0 and 1; a row's own accuracy is over image questions only."""
    evaluation = finished["evaluate"].record.summary
    rows = {}
    for row in ROWS:
        scores = evaluation["scores"].get(row.name, {})
        if row.headline in scores:
            extra = {slice_: _short(scores[slice_]) for slice_ in _EXTRA_SLICES if slice_ in scores}
            rows[row.name] = {"title": row.title, **_short(scores[row.headline]), **extra}
    return {
        "name": name,
        "rows": rows,
        "trainable_parameters": {
            stage: finished[stage].record.summary["trainable_parameters"] for stage in ("stage1", "stage2")
        },
        "image_memory_bytes": evaluation["image_memory_bytes"],
        "seconds": {step: done.record.seconds for step, done in finished.items()},
        "reused": [step for step, done in finished.items() if done.reused],
        "final_loss": {stage: finished[stage].record.summary["final_loss"] for stage in ("stage1", "stage2")},
        "adapter": str(finished["stage2"].folder / "adapter"),
        "figures": [str(finished["evaluate"].folder / path) for path in evaluation["figures"]],
        "registered_model": finished["register"].record.summary,
    }


def _short(score: Mapping[str, Any]) -> dict[str, Any]:
    return {key: score[key] for key in ("accuracy", "n", "by_task", "unparsable")}


def results_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the results table; accuracies in per cent, "-" where a row has no such questions."""
    rows = report["rows"]
    tasks = {task for row in rows.values() for task in row["by_task"]}
    ordered = [task for task in TASK_ORDER if task in tasks] + sorted(tasks - set(TASK_ORDER))
    extras = {name: title for name, title in _EXTRA_SLICES.items() if any(name in row for row in rows.values())}
    header = ["model state", "image questions", "n", *(task or "(no category)" for task in ordered), *extras.values()]
    lines = [
        [
            row["title"],
            _percent(row),
            str(row["n"]),
            *(_percent(row["by_task"].get(task)) for task in ordered),
            *(_percent(row.get(name)) for name in extras),
        ]
        for row in rows.values()
    ]
    return header, lines


def _percent(score: Mapping[str, Any] | None) -> str:
    return "-" if score is None else f"{100 * score['accuracy']:.1f}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as GitHub Markdown; the first column left, numbers right."""
    rule = ["---", *("--:" for _ in header[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))


def write_report(report: Mapping[str, Any], *, folder: Path) -> None:
    """report.json and report.md in the run folder."""
    write_files(report, folder=folder, table=results_table(report), closing=closing_lines(report))


def write_files(
    report: Mapping[str, Any],
    *,
    folder: Path,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    closing: Iterable[str],
) -> None:
    """A report of any kind of job as JSON, and its table (header, lines) with the closing lines as Markdown."""
    write_json(folder / "report.json", dict(report))
    text = f"# {report['name']}\n\n{markdown(*table)}\n" + "".join(f"- {line}\n" for line in closing)
    with atomic_write(folder / "report.md") as file:
        file.write(text.encode())


def closing_lines(report: Mapping[str, Any]) -> list[str]:
    """Counts, bytes and seconds, one line each."""
    trainable = report["trainable_parameters"]
    seconds = report["seconds"]
    reused = report["reused"]
    spent = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
    return [
        f"trainable parameters: stage 1 {trainable['stage1']:,}, stage 2 {trainable['stage2']:,}",
        f"bytes per image memory: {report['image_memory_bytes']:,}",
        f"seconds per step: {spent} (together {sum(seconds.values()):.1f})",
        f"re-used from an earlier submission: {', '.join(reused) if reused else 'nothing'}",
        model_line(report["registered_model"]),
    ]


def model_line(model: Mapping[str, Any]) -> str:
    """Which version the job registered, and why it is the champion or not."""
    return f"version {model['version']} of {model['name']}: {model['reason']}"


def print_report(report: Mapping[str, Any], *, console: Console, folder: Path, tracking_uri: str) -> None:
    """The table and where to look."""
    if report["rows"]:
        header, lines = results_table(report)
        table = Table(title=f"{report['name']}: right answers in per cent", title_justify="left")
        table.add_column(header[0], no_wrap=False)
        for title in header[1:]:
            table.add_column(title, justify="right")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for line in closing_lines(report):
        console.print(line, soft_wrap=True)
    model = report["registered_model"]
    console.print(f"report:   {folder / 'report.html'} (also report.json and report.md)", soft_wrap=True)
    for path in report["figures"]:
        console.print(f"picture:  {path}", soft_wrap=True)
    console.print(f"model:    {model['uri']} (version {model['version']})", soft_wrap=True)
    console.print(f"look at all of it in MLflow:  {tracking_command(tracking_uri)}", soft_wrap=True)


def tracking_command(uri: str) -> str:
    """What to type, or where to go, to see the runs."""
    if uri.startswith("http"):
        return redacted(uri)
    mlflow = Path(sys.executable).parent / "mlflow"
    # Job execution is MLflow's own task queue: without it the server starts in a third of the time.
    return (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {mlflow} server --backend-store-uri {redacted(uri)} "
        "--workers 1 --port 5000  (then open http://127.0.0.1:5000)"
    )
