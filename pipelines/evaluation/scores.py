"""What scored predictions say: accuracies as shares, and how two states differ on the same questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.metrics.bootstrap import Difference, Draws, differences


@dataclass(frozen=True)
class Scored:
    """One model state's scored answers to one question set, as the evaluation step wrote them down."""

    state: str
    """name of the state"""
    row: str
    """its title"""
    report: Mapping[str, Any]
    """of the metric (`memvp_data.metrics.suite.Report`), plain JSON"""
    predictions: Path
    """JSON lines"""
    resampled: Path
    """every score on every resample"""


@dataclass(frozen=True)
class ScoredSet:
    """One question set and all who answered it."""

    benchmark: str
    """"" for the job's own questions"""
    split: str
    """test slice or split"""
    table: Path
    """samples table"""
    images: Path | None
    """folder of image shards; None where a job has only features"""
    rows: tuple[Scored, ...]
    """in the order of the report"""

    def differences(self, pairs: Sequence[tuple[Scored, Scored]]) -> dict[tuple[str, str], dict[str, Difference]]:
        """(title of a, title of b) -> score by score a minus b; nothing is scored for it."""
        draws = {path: Draws.read(path) for path in {row.resampled for pair in pairs for row in pair}}
        return {(a.row, b.row): differences(draws[a.resampled], draws[b.resampled]) for a, b in pairs}


def accuracy_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of the metric "accuracy" as shares of 1: {"accuracy", "n", "by_task", "unparsable"}."""
    scores = report["scores"]
    whole = _right(scores["accuracy"])
    tasks = {name.removeprefix("task "): _right(one) for name, one in scores.items() if name.startswith("task ")}
    rest = whole[0] - sum(right for right, _ in tasks.values()), whole[1] - sum(n for _, n in tasks.values())
    if rest[1]:
        tasks = {"": rest, **tasks}
    by_task = {task: _share(*counts) for task, counts in tasks.items()}
    return {**_share(*whole), "by_task": by_task, "unparsable": report["unparsable"]}


def _right(score: Mapping[str, Any]) -> tuple[int, int]:
    """(right answers, questions): whole numbers again, so that no rounding of the percentage remains."""
    return round(score["value"] * score["n"] / 100), score["n"]


def _share(right: int, n: int) -> dict[str, Any]:
    return {"accuracy": right / n, "n": n}
