"""How each kind of job ends when its last step is done: a report on disk, in MLflow and on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import benchmark_report, report
from pipelines.step_log import log_benchmark_report, log_report
from pipelines.steps import FinishedStep
from pipelines.tracking import Tracker


@dataclass(frozen=True)
class Ended:
    """A job whose steps are all finished."""

    config: Any
    """its settings"""
    finished: Mapping[str, FinishedStep]
    """its steps by name"""
    folder: Path
    """run folder"""
    tracker: Tracker
    """MLflow, its parent run still open"""
    console: Console
    """for the table of results"""


def end_instruct(job: Ended) -> dict[str, Any]:
    """The table of model states on the job's own test questions."""
    content = report.make_report(job.finished, name=job.config.name)
    report.write_report(content, folder=job.folder)
    log_report(job.tracker, content, folder=job.folder)
    report.print_report(content, console=job.console, folder=job.folder, tracking_uri=job.tracker.uri)
    return content


def end_benchmarks(job: Ended) -> dict[str, Any]:
    """The official scores of every benchmark, and the differences between those who answered it."""
    content = benchmark_report.make_report(job.finished, name=job.config.name)
    benchmark_report.write_report(content, folder=job.folder)
    log_benchmark_report(job.tracker, content, folder=job.folder)
    benchmark_report.print_report(content, console=job.console, folder=job.folder, tracking_uri=job.tracker.uri)
    return content
