"""What is done when a job's last step is done: a report on disk, in MLflow and on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.config.plain import as_settings
from pipelines.console.redaction import redacted_settings
from pipelines.reports.drawn_page import current_page, report_key
from pipelines.reports.results import ReportForm, make_report, results_of
from pipelines.reports.written import print_report, write_report
from pipelines.tracking.gate import REASON_TAG
from pipelines.tracking.job import JobTracking
from pipelines.tracking.pages import note
from pipelines.tracking.step_run import metric_name
from pipelines.workflow.step import FinishedStep

if TYPE_CHECKING:
    from pipelines.evaluation.scores import ScoredSet
    from pipelines.reports.page import Page
    from pipelines.tracking.mlflow import Tracker

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
    tracking: JobTracking
    """the job's line to MLflow"""
    console: Console
    """for the table of results"""

    @property
    def settings(self) -> dict[str, Any]:
        """Resolved settings without secrets."""
        return redacted_settings(as_settings(self.config))


def finish_job(job: FinishedJob) -> dict[str, Any]:
    """Write, log and print the report; returns the content of report.json."""
    results = results_of(job.finished)
    report = make_report(job.finished, results, form=job.form, name=job.config.name)
    write_report(report, form=job.form, folder=job.folder)
    key = report_key(report, steps=job.finished, settings=job.settings)
    pictures = current_page(job.folder, key=key, make=lambda: _page(job, report, results))
    job.tracking.send_report(key, partial(_log, job, report, pictures=pictures))
    tracking = job.tracking.uri, job.tracking.page
    print_report(report, form=job.form, console=job.console, folder=job.folder, tracking=tracking)
    return report


def _page(job: FinishedJob, report: Mapping[str, Any], results: list[ScoredSet]) -> Page:
    """What stands on the page; its pictures of training are drawn here. The import of what draws takes a second."""
    from pipelines.reports.page_content import Finished, make_page

    return make_page(Finished(report, results, job.form, job.finished, job.settings, job.folder / "figures"))


def _log(job: FinishedJob, report: Mapping[str, Any], tracker: Tracker, *, pictures: Iterable[Path]) -> None:
    """The job's results on the parent run: figures, note, report files, table, pictures."""
    run_id = tracker.parent_id
    numbers = {metric_name(name): value for name, value in job.form.numbers(report).items()}
    seconds = {f"seconds/{step}": seconds for step, seconds in report["seconds"].items()}
    tracker.log_numbers(run_id, {**numbers, **seconds})
    text = (job.folder / "report.md").read_text(encoding="utf-8")
    described = note(text, experiment=tracker.experiment_id, run_id=run_id, longest=_LONGEST_NOTE)
    reason = {} if report["registered_model"] is None else {REASON_TAG: report["registered_model"]["reason"]}
    tracker.tag(run_id, {"mlflow.note.content": described, **reason})
    tracker.save_view(job.config.name, numbers=list(numbers))
    for name in ("report.html", "report.json", "report.md"):
        tracker.log_file(run_id, job.folder / name)
    header, lines = job.form.table(report)
    if lines:
        columns = {title: [line[number] for line in lines] for number, title in enumerate(header)}
        tracker.log_table(run_id, name="results.json", columns=columns)
    for path in pictures:
        tracker.log_file(run_id, path, folder="figures")
