"""The benchmarks run: each at its smallest setting, where the numbers mean nothing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.forks import fork

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = (
    "core_forms",
    "core_paper_shapes",
    "data_reading",
    "data_hand_over",
    "train_memory",
    "plan_beside_paper",
    "prediction",
)
SLOW_SCRIPTS = ("train_memory_zero", "train_overhead", "extraction_overhead", "startup", "core_speed", "data_loader")
"""They start workers or whole jobs, or take as long."""


def numbers_in(content: Any) -> list[float]:
    """All numbers of a result file."""
    if isinstance(content, dict):
        return [number for value in content.values() for number in numbers_in(value)]
    if isinstance(content, list):
        return [number for value in content for number in numbers_in(value)]
    return [content] if isinstance(content, int | float) else []


@pytest.mark.parametrize("name", [*SCRIPTS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_SCRIPTS)])
def test_smallest_setting_writes_a_result(name: str, tmp_path: Path) -> None:
    run = fork(f"benchmarks/{name}.py", "--smoke", "--out", str(tmp_path), said=tmp_path / "said.txt")
    run.join()
    assert run.exitcode == 0, (tmp_path / "said.txt").read_text()
    result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert {"command", "date", "machine"} < set(result)
    assert all(math.isfinite(number) for number in numbers_in(result))


def test_result_files_say_how_they_were_made() -> None:
    for path in sorted((ROOT / "benchmarks/results").glob("core_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        script = result["command"].split()[1]
        assert (ROOT / script).is_file(), f"{path.name} was made by {script}, which is gone"
        assert "--smoke" not in result["command"], f"{path.name} holds a trial run"
