"""Who stands still is told once, whoever builds a model is left in peace, and only the right process is killed."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from memvp_train.launch.heartbeat import (
    BeatingBatches,
    Heartbeat,
    HeartbeatWriter,
    StillWatch,
    kill_process,
    read_heartbeats,
    where,
)

SIGN = Heartbeat(0, 10, 1.0, "node", step=5)


@dataclass
class _Batch:
    sample_ids: tuple[str, ...]


class _Batches:
    def at(self, step: int) -> list[_Batch]:
        return [_Batch((f"a{step}", "b")), _Batch(("c",))]


def test_batches_tell_the_step_and_its_samples(tmp_path: Path) -> None:
    heart = HeartbeatWriter(tmp_path, rank=3, node="here")
    (sign,) = read_heartbeats(tmp_path)
    assert (sign.rank, sign.pid, sign.node, sign.step) == (3, os.getpid(), "here", None)
    assert where([sign]) == "the start, before any step"
    batches = BeatingBatches(_Batches(), beat=heart.beat)
    assert batches.at(6) == _Batches().at(6)
    (sign,) = read_heartbeats(tmp_path)
    assert (sign.step, sign.samples) == (7, ("a6", "b", "c"))
    assert where([sign, replace(sign, rank=4, samples=()), SIGN]) == "step 7 (samples a6, b, c)"
    assert where([sign], num_samples=2) == "step 7 (samples a6, b and 1 more)"
    validation = batches.watched([1, 2])
    for _ in range(2):  # it can be read again
        numbers = [(item, read_heartbeats(tmp_path)[0]) for item in validation]
        assert [item for item, _ in numbers] == [1, 2]
        assert numbers[0][1] != numbers[1][1], "two signs at the same step are told apart"
        assert {sign.step for _, sign in numbers} == {7}
    heart.stop()
    assert read_heartbeats(tmp_path) == []


def test_half_a_sign_is_none(tmp_path: Path) -> None:
    HeartbeatWriter(tmp_path, rank=0, node="here")
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-9])
    assert read_heartbeats(tmp_path) == []


def test_only_who_stands_still_long_enough_is_told_and_once() -> None:
    watch = StillWatch(seconds=10)
    other = replace(SIGN, rank=1)
    starting = replace(SIGN, rank=2, step=None)
    assert watch.still([SIGN, other, starting], now=0) == []
    assert watch.still([SIGN, replace(other, step=6), starting], now=9) == []
    assert watch.still([SIGN, replace(other, step=6), starting], now=11) == [SIGN]
    assert watch.still([SIGN, replace(other, step=6), starting], now=18) == []
    assert watch.still([replace(SIGN, pid=11), replace(other, step=7)], now=30) == []
    assert watch.still([replace(SIGN, pid=11), replace(other, step=8)], now=41) == [replace(SIGN, pid=11)]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_process_is_killed_with_its_children_unless_the_number_means_another() -> None:
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print('up', flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    parent.stdout.readline()
    process = psutil.Process(parent.pid)
    (child,) = process.children()
    assert not kill_process(parent.pid, process.create_time() + 1)
    assert parent.poll() is None
    assert kill_process(parent.pid, process.create_time())
    assert parent.wait(timeout=60) == -9
    end = time.monotonic() + 60
    while not is_gone(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert is_gone(child)
    assert not kill_process(parent.pid, 0.0)
