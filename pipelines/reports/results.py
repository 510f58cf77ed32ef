"""What a finished job answered: the scored question sets of all its evaluations; and how a kind of job reports them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.scores import Scored, ScoredSet
from pipelines.workflow.paths import samples_path
from pipelines.workflow.step import FinishedStep

Report = Mapping[str, Any]
"""Content of report.json."""
Table = tuple[list[str], list[list[str]]]
"""Header and lines."""


@dataclass(frozen=True)
class ReportForm:
    """How a kind of job reports: which rows and columns are made of the same scored question sets."""

    caption: str
    """of the printed table, after the name of the run"""
    lead: str
    """first sentence of the page"""
    unit: str
    """of the scores on the page"""
    note: str
    """beside the name of the page, where the report is printed"""
    make: Callable[[Mapping[str, FinishedStep], Sequence[ScoredSet]], dict[str, Any]]
    """report.json, but for what every job has"""
    table: Callable[[Report], Table]
    """the results table; no lines where nothing was asked"""
    closing: Callable[[Report], Iterable[str]]
    """what a reader must know beside the table, one line each"""
    numbers: Callable[[Report], dict[str, float]]
    """the figures on the job's MLflow run"""
    facts: Callable[[Report], dict[str, str]]
    """key figures on the page"""
    title: Callable[[ScoredSet], str]
    """of a question set"""
    score_titles: Callable[[Iterable[str]], dict[str, str]]
    """scores in the order of the page -> as they are called there"""
    pairs: Callable[[ScoredSet], Sequence[tuple[Scored, Scored]]]
    """which rows are compared: the first minus the second"""


def results_of(finished: Mapping[str, FinishedStep]) -> list[ScoredSet]:
    """Every question set that was asked, with all who answered it, in the order of the steps."""
    found: dict[tuple[str, str], list[Scored]] = {}
    tables: dict[tuple[str, str], str] = {}
    for done in finished.values():
        for one in done.record.summary.get("answered", ()):
            place = one["benchmark"], one["split"]
            tables[place] = one["table"]
            files = (done.folder / one[name] for name in ("predictions", "resampled"))
            found.setdefault(place, []).append(Scored(one["state"], one["row"], one["report"], *files))
    return [_scored_set(finished, *place, table=tables[place], rows=tuple(rows)) for place, rows in found.items()]


def _scored_set(
    finished: Mapping[str, FinishedStep], benchmark: str, split: str, *, table: str, rows: tuple[Scored, ...]
) -> ScoredSet:
    built = (finished.get(f"build_shards/{benchmark}") or finished["build_shards"]).folder
    images = built / "images"
    return ScoredSet(benchmark, split, samples_path(built, table), images if images.is_dir() else None, rows)


def make_report(
    finished: Mapping[str, FinishedStep], results: Sequence[ScoredSet], *, form: ReportForm, name: str
) -> dict[str, Any]:
    """The content of report.json."""
    return {
        "name": name,
        **form.make(finished, results),
        "seconds": {step: done.record.seconds for step, done in finished.items()},
        "reused": [step for step, done in finished.items() if done.reused],
        "registered_model": finished["register"].record.summary if "register" in finished else None,
    }
