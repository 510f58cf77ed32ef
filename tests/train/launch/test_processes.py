"""How many processes a machine gets, and that they end with the one that started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from memvp_train.config import ConfigError, LaunchConfig, StageConfig
from memvp_train.launch.processes import num_processes


def _stage(*, global_batch: int, micro_batch: int) -> StageConfig:
    return StageConfig(
        num_steps=1,
        global_batch_size=global_batch,
        micro_batch_size=micro_batch,
        learning_rate=1e-3,
        template="toyworld",
    )


@pytest.mark.parametrize(
    ("cores", "global_batch", "micro_batch", "expected"),
    [(2, 36, 9, 2), (3, 36, 9, 2), (4, 36, 9, 4), (64, 36, 9, 4), (4, 36, 12, 3), (2, 36, 36, 1)],
)
def test_one_a_core_as_far_as_micro_batches_can_be_shared(
    monkeypatch: pytest.MonkeyPatch, cores: int, global_batch: int, micro_batch: int, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    launch = LaunchConfig(num_workers=0, local_processes=0)
    assert num_processes(launch, _stage(global_batch=global_batch, micro_batch=micro_batch)) == expected
    assert num_processes(launch) == cores


def test_a_number_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert num_processes(LaunchConfig(num_workers=0)) == 1
    assert num_processes(LaunchConfig(num_workers=0, local_processes=3)) == 3


def test_a_gpu_has_one_process_and_takes_workers_for_more() -> None:
    assert num_processes(LaunchConfig(num_workers=0, local_processes=0, use_gpu=True)) == 1
    with pytest.raises(ConfigError, match=r"are for CPUs, got 2 with launch.use_gpu; set launch.num_workers=2 instead"):
        LaunchConfig(num_workers=0, local_processes=2, use_gpu=True)


_PARENT = """
import os, signal, sys, time
from pathlib import Path
from memvp_train.launch.process_maps import map_processes

def make():
    return wait

def wait(item):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    # What runs in the background of a shell is started with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    map_processes(make, [0, 1], num_actors=2)
"""


_SLOW_FAULT = (pytest.mark.faults, pytest.mark.slow)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, *(pytest.param(one, marks=_SLOW_FAULT) for one in (signal.SIGTERM, signal.SIGINT))]
)
def test_they_end_with_the_process_that_started_them(tmp_path: Path, how: signal.Signals) -> None:
    script, seen = tmp_path / "parent.py", tmp_path / "seen"
    script.write_text(_PARENT)
    seen.mkdir()
    parent = subprocess.Popen([sys.executable, script, seen], stderr=subprocess.PIPE)
    _until(lambda: len(list(seen.iterdir())) == 2)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert {int(path.name) for path in seen.iterdir()} <= {child.pid for child in children}
    parent.send_signal(how)
    parent.communicate()
    _until(lambda: not any(_is_alive(child) for child in children))


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition: object, *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
