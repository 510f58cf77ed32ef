"""How each kind of job ends when its last step is done: a report on disk, in MLflow and on the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.config.plain import as_settings
from pipelines.console.redaction import redacted_settings
from pipelines.jobs.step_log import log_benchmark_report, log_report
from pipelines.reports import benchmarks, instruct, page_content
from pipelines.reports.page import Page, write_page
from pipelines.reports.task_chart import draw_tasks
from pipelines.tracking.mlflow import Tracker
from pipelines.workflow.step import FinishedStep


@dataclass(frozen=True)
class FinishedJob:
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


def end_instruct(job: FinishedJob) -> dict[str, Any]:
    """The table of model states on the job's own test questions."""
    content = instruct.make_report(job.finished, name=job.config.name)
    instruct.write_report(content, folder=job.folder)
    pictures = _write_page(job, content, page_of=page_content.instruct_page)
    log_report(job.tracker, content, folder=job.folder, pictures=pictures)
    instruct.print_report(content, console=job.console, folder=job.folder, tracking_uri=job.tracker.uri)
    return content


def end_benchmarks(job: FinishedJob) -> dict[str, Any]:
    """The official scores of every benchmark, and the differences between those who answered it."""
    content = benchmarks.make_report(job.finished, name=job.config.name)
    benchmarks.write_report(content, folder=job.folder)
    pictures = _write_page(job, content, page_of=page_content.benchmarks_page)
    log_benchmark_report(job.tracker, content, folder=job.folder, pictures=pictures)
    benchmarks.print_report(content, console=job.console, folder=job.folder, tracking_uri=job.tracker.uri)
    return content


def _write_page(
    job: FinishedJob, content: Mapping[str, Any], *, page_of: Callable[[page_content.Finished], Page]
) -> list[Path]:
    """report.html in the run folder; returns every picture of the job."""
    figures = job.folder / "figures"
    page = page_of(page_content.Finished(content, job.finished, redacted_settings(as_settings(job.config)), figures))
    write_page(page, path=job.folder / "report.html")
    drawn = [picture.path for pictures in page.pictures.values() for picture in pictures]
    return drawn + [
        draw_tasks(one.scores, title=one.title, path=figures / f"scores_{number}.png")
        for number, one in enumerate(page.benchmarks, start=1)
    ]
