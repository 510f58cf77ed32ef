"""report.html and its pictures: made again only if something that they show has changed.

Drawing takes longer than all else that a job does which re-uses every step. What the page was made from is kept beside
the pictures as a digest: a page left by other settings, or by a job killed before it drew, is never taken for this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.workflow.digests import code_digest, digest_json
from pipelines.workflow.run_folder import read_json, write_json
from pipelines.workflow.step import FinishedStep

if TYPE_CHECKING:
    from pipelines.reports.page import Page

# Whose source decides what the page looks like.
_CODE = ("pipelines.reports", "pipelines.evaluation")


def report_key(report: Mapping[str, Any], *, steps: Mapping[str, FinishedStep], settings: Mapping[str, Any]) -> str:
    """Digest of all that the page shows, but for the command: the same job asked for again has the same page.

    Args:
        report: content of report.json; which steps this submission re-used does not count.
        settings: resolved settings without secrets.
    """
    return digest_json(
        {
            "report": {name: value for name, value in report.items() if name != "reused"},
            "steps": {name: [done.record.key, done.record.digest] for name, done in steps.items()},
            "settings": dict(settings),
            "code": code_digest(_CODE),
        }
    )


def current_page(folder: Path, *, key: str, make: Callable[[], Page]) -> list[Path]:
    """Make report.html in the run folder unless it is there under this key; returns every picture of the job."""
    record = folder / "figures" / "drawn.json"
    drawn = read_json(record) or {}
    pictures = [folder / name for name in drawn.get("pictures", ())]
    if drawn.get("key") == key and all(path.is_file() for path in (folder / "report.html", *pictures)):
        return pictures
    record.unlink(missing_ok=True)
    pictures = _write(make(), folder=folder)
    write_json(record, {"key": key, "pictures": [str(path.relative_to(folder)) for path in pictures]})
    return pictures


def _write(page: Page, *, folder: Path) -> list[Path]:
    from pipelines.reports.page import write_page
    from pipelines.reports.task_chart import draw_tasks

    write_page(page, path=folder / "report.html")
    shown = [picture.path for pictures in page.pictures.values() for picture in pictures]
    return shown + [
        draw_tasks(one.scores, title=one.title, path=folder / "figures" / f"scores_{number}.png")
        for number, one in enumerate(page.benchmarks, start=1)
    ]
