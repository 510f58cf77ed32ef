"""Two launches of the same run: the second is refused by name, and takes over when the first is dead."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints.state import newest_first, read_state, verify
from memvp_train.config import LaunchConfig
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from tests.faults.runs import as_job

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


def _launch(job: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(job)], stdout=subprocess.PIPE, text=True)


def test_second_launch_is_refused_and_replaces_a_dead_first_one(
    tiny: Any, tmp_path: Path, fault_row: Callable[..., None]
) -> None:
    settings = {"num_steps": STEPS, "checkpoint_every": 5, "log_every": 1}
    run_stage(tiny.run(tmp_path / "quiet", **settings), HERE)
    job = as_job(tiny.run(tmp_path / "out", **settings), HERE, tmp_path / "job.json")
    first = _launch(job)
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)  # it must not be done before the others have started
    second = _launch(job)
    refusal, _ = second.communicate(timeout=300)
    assert second.returncode == 1
    assert f"another job is training in {tmp_path / 'out'} (pid {first.pid} on " in refusal
    first.kill()
    first.wait()
    third = _launch(job)
    third.communicate(timeout=300)
    assert third.returncode == 0
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
