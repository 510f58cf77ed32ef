"""The fault table: what each test did to a run and what came of it, printed after the tests."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.train.conftest import tiny

__all__ = ["tiny"]
_COLUMNS = ("goal", "fault", "what was done", "times", "result", "figure")


@pytest.fixture
def fault_row(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Add a row to the table; call it when the test has shown what the row says."""

    def add(**cells: object) -> None:
        assert set(cells) == {column.replace(" ", "_") for column in _COLUMNS}
        record_property("fault", [str(cells[column.replace(" ", "_")]) for column in _COLUMNS])

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """As Markdown, for docs/resuming.md."""
    reports = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    rows = [value for report in reports for name, value in report.user_properties if name == "fault"]
    if not rows:
        return
    terminalreporter.section("fault table")
    for row in (list(_COLUMNS), ["---"] * len(_COLUMNS), *sorted(rows, key=lambda row: _order(row[0]))):
        terminalreporter.write_line(f"| {' | '.join(row)} |")


def _order(goal: str) -> tuple[int, str]:
    digits = goal.lstrip("R").split(",")[0].split(" ")[0]
    return (int(digits) if digits.isdigit() else 99, goal)
