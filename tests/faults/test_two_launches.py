"""Two launches of the same run: the second is refused by name, and takes over when the first is dead."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints.state import newest_first, read_state, verify
from memvp_train.config import LaunchConfig
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from tests.faults.runs import as_job
from tests.forks import fork

pytestmark = pytest.mark.faults

HERE = LaunchConfig(num_workers=0)
STEPS = 60
DRIVER = """
import json, sys
from memvp_train.config import LaunchConfig, StageRun, from_plain
from memvp_train.training.stage import run_stage

values = json.loads(open(sys.argv[1]).read())
try:
    run_stage(
        from_plain(StageRun, values["run"]), from_plain(LaunchConfig, values["launch"]),
        on_step=lambda row: print(int(row["step"]), flush=True),
    )
except ValueError as error:
    print(error)
    sys.exit(1)
"""


SECONDS = 600


def _launch(job: Path, *, said: Path) -> BaseProcess:
    driver = job.with_name("driver.py")
    driver.write_text(DRIVER)
    return fork(str(driver), str(job), said=said)


def _wait_for_a_step(said: Path) -> None:
    end = time.monotonic() + SECONDS
    while not (said.is_file() and said.read_text().endswith("\n")):
        assert time.monotonic() < end, "the first launch made no step"
        time.sleep(0.01)


def test_second_launch_is_refused_and_replaces_a_dead_first_one(
    tiny: Any, tmp_path: Path, fault_row: Callable[..., None]
) -> None:
    settings = {"num_steps": STEPS, "checkpoint_every": 5, "log_every": 1}
    run_stage(tiny.run(tmp_path / "quiet", **settings), HERE)
    job = as_job(tiny.run(tmp_path / "out", **settings), HERE, tmp_path / "job.json")
    first = _launch(job, said=tmp_path / "first.txt")
    _wait_for_a_step(tmp_path / "first.txt")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)  # it must not be done before the others have started
    second = _launch(job, said=tmp_path / "second.txt")
    second.join(SECONDS)
    assert second.exitcode == 1
    refusal = (tmp_path / "second.txt").read_text()
    assert f"another job is training in {tmp_path / 'out'} (pid {first.pid} on " in refusal
    first.kill()
    first.join()
    third = _launch(job, said=tmp_path / "third.txt")
    third.join(SECONDS)
    assert third.exitcode == 0, (tmp_path / "third.txt").read_text()
    ends = [newest_first(tmp_path / name / "checkpoints") for name in ("out", "quiet")]
    assert verify(ends[0][0])["fence"] == 2
    torch.testing.assert_close(read_state(ends[0][0]).weights, read_state(ends[1][0]).weights, rtol=0, atol=0)
    assert [row["step"] for row in read_metrics(tmp_path / "out/metrics.jsonl")] == list(range(1, STEPS + 1))
    fault_row(
        goal="R18",
        fault="the same run launched twice",
        what_was_done="a second launch beside the first; SIGKILL to the first; a third launch",
        times=1,
        result="second refused, naming the first; third took over at once with fencing number 2; weights bit-equal",
        figure="never two writers",
    )
