"""The end of a job on benchmarks: its official scores as report.json, as Markdown, and printed.

Of several rows on the same questions each is compared with the first one: a paired test, question by question.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memvp_data.metrics.pairing import read_predictions
from memvp_data.metrics.suite import score
from memvp_data.samples import read_samples
from pipelines.data.sources import test_table
from pipelines.reports.instruct import model_line, tracking_command, write_files
from pipelines.workflow.paths import samples_path
from pipelines.workflow.step import FinishedStep

_HEADER = ("benchmark", "who answers", "score", "value", "95 % interval", "n", "unreadable", "to the first", "p")


def make_report(finished: Mapping[str, FinishedStep], *, name: str) -> dict[str, Any]:
    """The content of report.json: scores as memvp_data's metrics give them, most between 0 and 100."""
    tuned = finished.get("tune")
    return {
        "name": name,
        "benchmarks": _benchmarks(finished),
        "trainable_parameters": tuned.record.summary["trainable_parameters"] if tuned else None,
        "final_loss": tuned.record.summary["final_loss"] if tuned else None,
        "adapter": str(tuned.folder / "adapter") if tuned else None,
        "seconds": {step: done.record.seconds for step, done in finished.items()},
        "reused": [step for step, done in finished.items() if done.reused],
        "registered_model": finished["register"].record.summary if "register" in finished else None,
    }


def _benchmarks(finished: Mapping[str, FinishedStep]) -> dict[str, Any]:
    """ "gqa, testdev" -> who answers -> their report, with the differences to the first of them."""
    answered = [
        {**one, "predictions": str(done.folder / one["predictions"])}
        for name, done in finished.items()
        if name.partition("/")[0] == "answers"
        for one in done.record.summary["answered"]
    ]
    found = {}
    for (benchmark, split), group in itertools.groupby(answered, key=lambda one: (one["benchmark"], one["split"])):
        first, *others = group
        built = finished.get(f"build_shards/{benchmark}") or finished["build_shards"]
        table = samples_path(built.folder, test_table(split))
        compared = {first["row"]: _entry(first), **{one["row"]: _compared(one, first, table) for one in others}}
        found[f"{benchmark}, {split}"] = compared
    return found


def _entry(answered: Mapping[str, Any]) -> dict[str, Any]:
    return {**answered["report"], "predictions": answered["predictions"]}


def _compared(answered: Mapping[str, Any], first: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """The entry, with how much each score is above the first one's on the same questions."""
    report = score(
        answered["metric"],
        read_predictions(answered["predictions"]),
        read_samples(table),
        other=read_predictions(first["predictions"]),
    )
    return {**_entry(answered), "differences": {name: asdict(one) for name, one in report.differences.items()}}


def results_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: the first score of every row, the one that papers print."""
    lines = [
        _line(benchmark, row, scored)
        for benchmark, rows in report["benchmarks"].items()
        for row, scored in rows.items()
    ]
    return list(_HEADER), lines


def _line(benchmark: str, row: str, scored: Mapping[str, Any]) -> list[str]:
    name, found = next(iter(scored["scores"].items()))
    difference = scored["differences"].get(name)
    return [
        benchmark,
        row,
        name,
        _number(found["value"]),
        f"{_number(found['low'])} to {_number(found['high'])}",
        f"{scored['n']:,}",
        f"{100 * scored['unparsable']:.1f} %",
        "-" if difference is None else f"{difference['value']:+.2f}",
        "-" if difference is None else f"{difference['p']:.3f}",
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def write_report(report: Mapping[str, Any], *, folder: Path) -> None:
    """report.json and report.md in the run folder."""
    write_files(report, folder=folder, table=results_table(report), closing=closing_lines(report))


def closing_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know beside the scores, one line each."""
    if report["trainable_parameters"] is not None:
        yield f"trainable parameters: {report['trainable_parameters']:,}"
    seconds = report["seconds"]
    spent = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
    yield f"seconds per step: {spent} (together {sum(seconds.values()):.1f})"
    yield f"re-used from an earlier submission: {', '.join(report['reused']) or 'nothing'}"
    if report["registered_model"] is not None:
        yield model_line(report["registered_model"])
    for benchmark, rows in report["benchmarks"].items():
        for note in dict.fromkeys(note for scored in rows.values() for note in scored["notes"]):
            yield f"{benchmark}: {note}"


def print_report(report: Mapping[str, Any], *, console: Console, folder: Path, tracking_uri: str) -> None:
    """The table and where to look."""
    header, lines = results_table(report)
    table = Table(title=f"{report['name']}: official scores", title_justify="left")
    for place, title in enumerate(header):
        table.add_column(title, justify="left" if place < 3 else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for line in closing_lines(report):
        console.print(line, soft_wrap=True)
    console.print(
        f"report:   {folder / 'report.html'} (also report.json and report.md), with every score", soft_wrap=True
    )
    model = report["registered_model"]
    if model is not None:
        console.print(f"model:    {model['uri']} (version {model['version']})", soft_wrap=True)
    console.print(f"look at all of it in MLflow:  {tracking_command(tracking_uri)}", soft_wrap=True)
