"""Workers killed, stopped, locked, starved: nothing is skipped or doubled, and the end is that of a quiet run."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from memvp_train.checkpoints.state import newest_step
from memvp_train.launch.heartbeat import read_heartbeats
from memvp_train.launch.session import LaunchError
from memvp_train.launch.supervision import SIGNS_FOLDER
from memvp_train.training.drive import WORKERS_FOLDER
from tests.faults.runs import (
    LAUNCH,
    assert_same_end,
    disturbed,
    first_steps,
    skipped_and_doubled,
    stage_run,
)
from tests.train.plans import plan_of

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(4000)]

STEPS, EVERY = 60, 6
PHASES = {
    "die_before_report": "before report",
    "die_in_upload": "in upload",
    "die_after_report": "after report, before commit",
    "die_after_commit": "after commit",
}


@pytest.fixture(scope="module")
def undisturbed(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two ranks without Ray, from the first step to the last."""
    out = tmp_path_factory.mktemp("undisturbed")
    tiny.train_ranks(plan_of(_run(tiny, out), LAUNCH), num_ranks=2)
    return out


def _run(tiny: Any, out: Path) -> Any:
    return stage_run(tiny, out, num_steps=STEPS, checkpoint_every=EVERY)


def _assert_sound(out: Path, prepared: Any, tiny: Any, undisturbed: Path) -> None:
    assert skipped_and_doubled(out, prepared, tiny) == (0, 0)
    assert_same_end(out, undisturbed, num_steps=STEPS)


def test_worker_killed_around_commits(
    tiny: Any, tmp_path: Path, on_ray: str, undisturbed: Path, fault_row: Callable[..., None]
) -> None:
    steps = dict(zip(PHASES, (12, 24, 36, 48), strict=True))
    faults = [{"kind": kind, "rank": 0, "step": step} for kind, step in steps.items()]
    prepared = disturbed(_run(tiny, tmp_path), LAUNCH, *faults)
    _assert_sound(tmp_path, prepared, tiny, undisturbed)
    begun = dict(zip(PHASES, first_steps(tmp_path)[1:], strict=True))
    # What was reported but not confirmed may be found or not; both are right.
    assert begun.pop("die_after_report") in (31, 37)
    assert begun == {"die_before_report": 7, "die_in_upload": 19, "die_after_commit": 49}
    for kind, step in steps.items():
        fault_row(
            goal="R1",
            fault=f"worker killed {PHASES[kind]}",
            what_was_done=f"SIGKILL to rank 0 in the commit of step {step}",
            times=1,
            result="went on from the last commit; weights, moments and losses bit-equal",
            figure="0 samples skipped, 0 doubled",
        )


def _kill_at(steps: list[int], out: Path, done: list[int], stop: threading.Event, choice: random.Random) -> None:
    """SIGKILL a random rank as soon as it has begun each of `steps`, each time in a new group."""
    folder, old = out / WORKERS_FOLDER / SIGNS_FOLDER, set[int]()
    for step in steps:
        rank = choice.randrange(LAUNCH.num_workers)
        while not stop.is_set():
            signs = {sign.rank: sign for sign in read_heartbeats(folder)}
            sign = signs.get(rank)
            if sign is not None and sign.pid not in old and (sign.step or 0) >= step:
                time.sleep(choice.random() * 0.02)
                os.kill(sign.pid, signal.SIGKILL)
                done.append(sign.pid)
                old |= {each.pid for each in signs.values()}
                break
            time.sleep(0.002)


def test_workers_killed_at_twenty_random_steps(
    tiny: Any, tmp_path: Path, on_ray: str, undisturbed: Path, fault_row: Callable[..., None]
) -> None:
    choice = random.Random(20)
    steps = sorted(choice.sample(range(2, STEPS - 3), 20))
    done, stop = list[int](), threading.Event()
    killer = threading.Thread(target=_kill_at, args=(steps, tmp_path, done, stop, choice), daemon=True)
    killer.start()
    try:
        prepared = disturbed(_run(tiny, tmp_path), replace(LAUNCH, max_failures=20))
    finally:
        stop.set()
        killer.join()
    assert len(done) == 20
    assert len(first_steps(tmp_path)) == 21
    _assert_sound(tmp_path, prepared, tiny, undisturbed)
    fault_row(
        goal="R1",
        fault="workers killed at random steps",
        what_was_done=f"SIGKILL from outside to a random rank, in one run of {STEPS} steps",
        times=20,
        result=f"{len(first_steps(tmp_path))} groups; weights, moments and losses bit-equal",
        figure="0 samples skipped, 0 doubled",
    )


@pytest.mark.parametrize(("kind", "what"), [("stop", "SIGSTOP to rank 1"), ("lock_loader", "loader sleeps for ever")])
def test_hanging_worker_is_ended_and_replaced(
    tiny: Any, tmp_path: Path, on_ray: str, undisturbed: Path, fault_row: Callable[..., None], kind: str, what: str
) -> None:
    seconds = 20.0
    launch = replace(LAUNCH, hang_seconds=seconds, loader_processes=int(kind == "lock_loader"))
    hung = list[float]()
    stop = threading.Event()

    def watch() -> None:
        """When the fault happened, when the worker was gone, and when there were others."""
        folder = tmp_path / WORKERS_FOLDER / SIGNS_FOLDER
        while not stop.is_set() and not list(tmp_path.glob("fault-*")):
            time.sleep(0.05)
        hung.append(time.monotonic())
        old = {sign.rank: sign.pid for sign in read_heartbeats(folder)}
        for has_come in (
            lambda: not psutil.pid_exists(old[1]),
            lambda: {sign.pid for sign in read_heartbeats(folder)}.isdisjoint(old.values()),
        ):
            while not stop.is_set() and not has_come():
                time.sleep(0.05)
            hung.append(time.monotonic())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        prepared = disturbed(_run(tiny, tmp_path), launch, {"kind": kind, "rank": 1, "step": 20})
    finally:
        stop.set()
        watcher.join()
    ended, back = (moment - hung[0] for moment in hung[1:])
    _assert_sound(tmp_path, prepared, tiny, undisturbed)
    assert seconds <= ended <= 2 * seconds
    fault_row(
        goal="R13",
        fault="worker stopped" if kind == "stop" else "loader dead-locked",
        what_was_done=f"{what}, hang_seconds {seconds:g}",
        times=1,
        result="group ended and started again; weights bit-equal",
        figure=f"ended {ended:.0f} s, new workers {back:.0f} s after the hang",
    )


def test_sample_that_always_crashes_stops_the_run_and_is_named(
    tiny: Any, tmp_path: Path, on_ray: str, fault_row: Callable[..., None]
) -> None:
    with pytest.raises(LaunchError) as caught:
        disturbed(_run(tiny, tmp_path), LAUNCH, {"kind": "crash", "rank": 1, "step": 20, "times": 99})
    sentence = str(caught.value)
    assert "failed more than 3 times in a row without a new checkpoint after step 18, last at step 20" in sentence
    assert "sample-" in sentence
    assert "\n" not in sentence
    assert len(list(tmp_path.glob("fault-*"))) == 4
    assert newest_step(tmp_path / WORKERS_FOLDER) == 18
    fault_row(
        goal="R14",
        fault="sample that crashes every time",
        what_was_done="exception on rank 1 in step 20, again at every restart",
        times=4,
        result="stopped after 3 restarts, naming step 20, its samples and the last checkpoint",
        figure="checkpoint of step 18 whole",
    )


@pytest.mark.parametrize(
    ("kind", "goal", "fault", "words"),
    [
        ("fill_disk", "R16", "disk full in a commit", "could not be written to .*the one before it is whole"),
        ("fail_to_write", "R11", "I/O error on one rank in a commit", "rank 1: .*Input/output error"),
    ],
)
def test_commit_that_fails_ends_every_rank_and_costs_no_checkpoint(
    tiny: Any,
    tmp_path: Path,
    on_ray: str,
    undisturbed: Path,
    fault_row: Callable[..., None],
    kind: str,
    goal: str,
    fault: str,
    words: str,
) -> None:
    rank = int(kind == "fail_to_write")
    fault_of_worker = {"kind": kind, "rank": rank, "step": 30}
    begun = time.monotonic()
    with pytest.raises(LaunchError, match=words) as caught:
        disturbed(_run(tiny, tmp_path), replace(LAUNCH, max_failures=0), fault_of_worker)
    took = time.monotonic() - begun
    assert "\n" not in str(caught.value)
    assert newest_step(tmp_path / WORKERS_FOLDER) == 24
    prepared = disturbed(_run(tiny, tmp_path), LAUNCH)
    _assert_sound(tmp_path, prepared, tiny, undisturbed)
    fault_row(
        goal=goal,
        fault=fault,
        what_was_done=f"rank {rank} cannot write the checkpoint of step 30",
        times=1,
        result="all ranks ended with one sentence; the same command went on from step 24, weights bit-equal",
        figure=f"{took:.0f} s from start to sentence",
    )
