"""What is done when a job's last step is done: a report on disk, in MLflow and on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.config.plain import as_settings
from pipelines.console.redaction import redacted_settings
from pipelines.reports.page import write_page
from pipelines.reports.page_content import Finished, make_page
from pipelines.reports.results import ReportForm, make_report, results_of
from pipelines.reports.task_chart import draw_tasks
from pipelines.reports.written import print_report, write_report
from pipelines.tracking.gate import REASON_TAG
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.step_run import metric_name
from pipelines.workflow.step import FinishedStep

_LONGEST_NOTE = 8000
"""Characters of a tag; a run's note, which its page shows as Markdown, is one."""


@dataclass(frozen=True)
class FinishedJob:
    """A job whose steps are all finished."""

    config: Any
    """its settings"""
    form: ReportForm
    """how its kind reports"""
    finished: Mapping[str, FinishedStep]
    """its steps by name"""
    folder: Path
    """run folder"""
    tracker: Tracker
    """MLflow, its parent run still open"""
    console: Console
    """for the table of results"""


def finish_job(job: FinishedJob) -> dict[str, Any]:
    """Write, log and print the report; returns the content of report.json."""
    results = results_of(job.finished)
    report = make_report(job.finished, results, form=job.form, name=job.config.name)
    write_report(report, form=job.form, folder=job.folder)
    settings = redacted_settings(as_settings(job.config))
    content = Finished(report, results, job.form, job.finished, settings, job.folder / "figures")
    _log(job, report, pictures=_write_page(content, path=job.folder / "report.html"))
    print_report(report, form=job.form, console=job.console, folder=job.folder, tracking_uri=job.tracker.uri)
    return report


def _write_page(content: Finished, *, path: Path) -> list[Path]:
    """report.html; returns every picture of the job."""
    page = make_page(content)
    write_page(page, path=path)
    drawn = [picture.path for pictures in page.pictures.values() for picture in pictures]
    return drawn + [
        draw_tasks(one.scores, title=one.title, path=content.figures / f"scores_{number}.png")
        for number, one in enumerate(page.benchmarks, start=1)
    ]


def _log(job: FinishedJob, report: Mapping[str, Any], *, pictures: Iterable[Path]) -> None:
    """The job's results on the parent run: figures, note, report files, table, pictures."""
    tracker, run_id = job.tracker, job.tracker.parent_id
    numbers = {metric_name(name): value for name, value in job.form.numbers(report).items()}
    seconds = {f"seconds/{step}": seconds for step, seconds in report["seconds"].items()}
    tracker.log_numbers(run_id, {**numbers, **seconds})
    note = (job.folder / "report.md").read_text(encoding="utf-8")[:_LONGEST_NOTE]
    reason = {} if report["registered_model"] is None else {REASON_TAG: report["registered_model"]["reason"]}
    tracker.tag(run_id, {"mlflow.note.content": note, **reason})
    for name in ("report.html", "report.json", "report.md"):
        tracker.log_file(run_id, job.folder / name)
    header, lines = job.form.table(report)
    if lines:
        columns = {title: [line[number] for line in lines] for number, title in enumerate(header)}
        tracker.log_table(run_id, name="results.json", columns=columns)
    for path in pictures:
        tracker.log_file(run_id, path, folder="figures")
