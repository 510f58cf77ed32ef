"""A job without workers has all cores, and gives them back; $OMP_NUM_THREADS says otherwise."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.config import LaunchConfig
from memvp_train.features.extract import map_here
from memvp_train.inference.predict import map_in_process
from memvp_train.launch.cores import all_cores, num_cores
from memvp_train.training.stage import run_stage


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(None, len(os.sched_getaffinity(0))), ("", len(os.sched_getaffinity(0))), ("3", 3), ("4,2", 4)],
)
def test_cores_are_the_variable_or_those_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert num_cores() == expected


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


def test_threads_are_given_back(three_cores: None) -> None:
    before = torch.get_num_threads()
    with all_cores():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_maps_in_this_process_use_them(three_cores: None) -> None:
    assert map_here(lambda item: torch.get_num_threads(), [0]) == [3]
    assert map_in_process(lambda: lambda item: torch.get_num_threads(), [0]) == [3]


def test_training_in_this_process_uses_them(tiny: Any, tmp_path: Path, three_cores: None) -> None:
    seen: set[int] = set()

    def note(module: Any, inputs: Any) -> None:
        seen.add(torch.get_num_threads())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        run_stage(tiny.run(tmp_path), LaunchConfig(num_workers=0))
    finally:
        handle.remove()
    assert seen == {3}


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(given: dict[str, str], expected: str) -> None:
    code = "import os; from memvp_train.launch.cores import *; spin_briefly(); print(os.environ.get('GOMP_SPINCOUNT'))"
    others = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env=others | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


def test_a_system_that_knows_no_affinity_counts_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: `os` has no sched_getaffinity there."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert num_cores() == 3
