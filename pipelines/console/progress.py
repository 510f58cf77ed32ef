"""One rich progress bar per step. Where the output is no terminal, a plain line every few seconds instead."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class StepProgress:
    """Callable with the amount done, the form every package's `progress` argument takes; the total may follow later."""

    def __init__(self, bar: Progress, *, title: str, console: Console) -> None:
        self._bar = bar
        self._title = title
        self._console = console
        self._total: int | None = None
        self._task = bar.add_task(title, total=None)
        self._last_line = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        self._total = self._total if total is None else total
        self._bar.update(self._task, completed=done, total=self._total)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(f"{self._title}: {done} of {self._total or 'unknown'}")

    def describe(self, text: str) -> None:
        """Add a few words behind the title, e.g. the newest loss."""
        self._bar.update(self._task, description=f"{self._title} [dim]{text}[/dim]")


@contextmanager
def step_progress(title: str, *, console: Console) -> Iterator[StepProgress]:
    """Show the bar while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield StepProgress(bar, title=title, console=console)
