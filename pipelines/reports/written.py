"""A report on disk and on the screen: report.json, the same as Markdown, and what is printed at the end of a job."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from memvp_data.files.atomic import atomic_write
from pipelines.console.redaction import redacted
from pipelines.reports.results import Report, ReportForm
from pipelines.workflow.run_folder import write_json


def write_report(report: Report, *, form: ReportForm, folder: Path) -> None:
    """report.json and report.md in the run folder."""
    write_json(folder / "report.json", dict(report))
    lines = "".join(f"- {line}\n" for line in closing_lines(report, form=form))
    with atomic_write(folder / "report.md") as file:
        file.write(f"# {report['name']}\n\n{markdown(*form.table(report))}\n{lines}".encode())


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as GitHub Markdown; the first column left, numbers right."""
    rule = ["---", *("--:" for _ in header[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))


def closing_lines(report: Report, *, form: ReportForm) -> Iterator[str]:
    """Counts, seconds and the registered version, one line each."""
    yield from form.closing(report)
    seconds = report["seconds"]
    spent = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
    yield f"seconds per step: {spent} (together {sum(seconds.values()):.1f})"
    yield f"re-used from an earlier submission: {', '.join(report['reused']) or 'nothing'}"
    if report["registered_model"] is not None:
        yield _model_line(report["registered_model"])


def _model_line(model: Mapping[str, Any]) -> str:
    """Which version the job registered, and why it is the champion or not."""
    return f"version {model['version']} of {model['name']}: {model['reason']}"


def print_report(
    report: Report, *, form: ReportForm, console: Console, folder: Path, tracking: tuple[str, str]
) -> None:
    """The table and where to look; `tracking` is the address of MLflow and the way below its server's."""
    _print_table(report, form=form, console=console)
    lines = [*closing_lines(report, form=form), f"report:   {folder / 'report.html'} {form.note}"]
    lines += [f"picture:  {path}" for path in report.get("figures", ())]
    model = report["registered_model"]
    if model is not None:
        lines.append(f"model:    {model['uri']} (version {model['version']})")
    for line in (*lines, f"look at all of it in MLflow:  {tracking_command(*tracking)}"):
        console.print(line, soft_wrap=True)


def _print_table(report: Report, *, form: ReportForm, console: Console) -> None:
    from rich.table import Table

    header, lines = form.table(report)
    if not lines:
        return
    table = Table(title=f"{report['name']}: {form.caption}", title_justify="left")
    for place, title in enumerate(header):
        is_text = all(not line[place][:1].isdigit() for line in lines)
        table.add_column(title, justify="left" if is_text and place < 3 else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def tracking_command(uri: str, page: str = "") -> str:
    """What to type, and where to go, to see the runs; `page` is the way below the server's address."""
    if uri.startswith("http"):
        return f"{redacted(uri).rstrip('/')}/{page}" if page else redacted(uri)
    mlflow = Path(sys.executable).parent / "mlflow"
    # Job execution is MLflow's own task queue: without it the server starts in a third of the time.
    return (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {mlflow} server --backend-store-uri {redacted(uri)} "
        f"--workers 1 --port 5000  (then open http://127.0.0.1:5000/{page})"
    )
