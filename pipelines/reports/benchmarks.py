"""The report of a job on benchmarks: official scores as memvp_data's metrics give them, most between 0 and 100.

Of several rows on the same questions each is compared with the first one: a paired test, question by question.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipelines.evaluation.scores import Scored, ScoredSet
from pipelines.reports.results import Report, ReportForm, Table
from pipelines.workflow.step import FinishedStep

_HEADER = ("benchmark", "who answers", "score", "value", "95 % interval", "n", "unreadable", "to the first", "p")


def _make(finished: Mapping[str, FinishedStep], results: Sequence[ScoredSet]) -> dict[str, Any]:
    tuned = finished.get("tune")
    return {
        "benchmarks": {_title(one): _entries(one) for one in results},
        "trainable_parameters": tuned.record.summary["trainable_parameters"] if tuned else None,
        "final_loss": tuned.record.summary["final_loss"] if tuned else None,
        "adapter": str(tuned.folder / "adapter") if tuned else None,
    }


def _title(results: ScoredSet) -> str:
    return f"{results.benchmark}, {results.split}"


def _entries(results: ScoredSet) -> dict[str, Any]:
    """Who answers -> their report, with the differences to the first of them."""
    entries = {row.row: {**row.report, "predictions": str(row.predictions)} for row in results.rows}
    for (row, _), found in results.differences(_pairs(results)).items():
        entries[row]["differences"] = {name: asdict(one) for name, one in found.items()}
    return entries


def _pairs(results: ScoredSet) -> list[tuple[Scored, Scored]]:
    """Every other row against the first."""
    first, *others = results.rows
    return [(other, first) for other in others]


def _table(report: Report) -> Table:
    """The first score of every row, the one that papers print."""
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


def _closing(report: Report) -> Iterator[str]:
    if report["trainable_parameters"] is not None:
        yield f"trainable parameters: {report['trainable_parameters']:,}"
    for benchmark, rows in report["benchmarks"].items():
        for note in dict.fromkeys(note for scored in rows.values() for note in scored["notes"]):
            yield f"{benchmark}: {note}"


def _numbers(report: Report) -> dict[str, float]:
    numbers = {
        f"{benchmark}/{row}/{name}": score["value"]
        for benchmark, rows in report["benchmarks"].items()
        for row, scored in rows.items()
        for name, score in itertools.islice(scored["scores"].items(), 1)
        if score["value"] is not None
    }
    trained = report["trainable_parameters"]
    return numbers if trained is None else {**numbers, "trainable_parameters": trained}


def _facts(report: Report) -> dict[str, str]:
    trained = report["trainable_parameters"]
    return {} if trained is None else {"trained numbers": f"{trained:,}"}


FORM = ReportForm(
    caption="official scores",
    lead="Official scores of benchmarks, and how far the rows of each lie apart on the same questions.",
    unit="the benchmark's own unit, most of them per cent",
    note="(also report.json and report.md), with every score",
    make=_make,
    table=_table,
    closing=_closing,
    numbers=_numbers,
    facts=_facts,
    title=_title,
    score_titles=lambda names: {name: name for name in names},
    pairs=_pairs,
)
