"""A run that gets nowhere is given up with a sentence; one that gets on is restarted as often as it takes."""

import threading
import time
from pathlib import Path

import pytest
import torch

from memvp_train.checkpoints.state import TrainingState, write_state
from memvp_train.launch.heartbeat import Heartbeat, HeartbeatWriter
from memvp_train.launch.supervision import SIGNS_FOLDER, Failure, Restarts, ending_hangs, saying

pytestmark = pytest.mark.faults


def test_restarts_without_progress_end_with_step_samples_and_rank(tmp_path: Path) -> None:
    failure = Failure(tmp_path / "failure.json")
    restarts = Restarts(tmp_path, failure=failure, limit=3)
    tensors = {"a": torch.ones(2)}
    write_state(TrainingState(40, tensors, tensors, tensors), tmp_path / "step-000000040-x")
    HeartbeatWriter(tmp_path / SIGNS_FOLDER, rank=1, node="n").beat(41, ["poison"])
    errors: dict[int, Exception] = {1: RuntimeError("Traceback\n  cannot decode poison")}
    assert [restarts.failed(errors) for _ in range(4)] == [False, False, False, True]
    assert failure.read() == (
        f"workers of {tmp_path} failed more than 3 times in a row without a new checkpoint after step 40, last at step "
        "42 (samples poison); rank 1: cannot decode poison; mend that and run the same command again"
    )


def test_checkpoint_between_starts_the_count_anew(tmp_path: Path) -> None:
    restarts = Restarts(tmp_path, failure=Failure(tmp_path / "failure.json"), limit=1)
    for _ in range(5):
        assert not restarts.failed({0: RuntimeError("died")})
        restarts.committed()
    assert not restarts.failed({0: RuntimeError("died")})
    assert restarts.failed({0: RuntimeError("died")})


def test_what_a_worker_said_itself_ends_the_run_at_once(tmp_path: Path) -> None:
    failure = Failure(tmp_path / "failure.json")
    failure.write("loss is nan at step 3")
    assert Restarts(tmp_path, failure=failure, limit=3).failed({0: ValueError("loss is nan at step 3")})
    assert failure.read() == "loss is nan at step 3"


def test_whole_group_is_ended_within_twice_the_time_out(tmp_path: Path) -> None:
    """Only rank 1 moves on; rank 0 waits, as for a peer that hangs."""
    hearts = [HeartbeatWriter(tmp_path / SIGNS_FOLDER, rank=rank, node="n") for rank in (0, 1)]
    hearts[0].beat(1)
    killed: list[tuple[Heartbeat, float]] = []
    start = time.monotonic()
    with ending_hangs(tmp_path, seconds=1.5, kill=lambda sign: killed.append((sign, time.monotonic() - start))):
        for step in range(31):
            hearts[1].beat(step)
            time.sleep(0.1)
    assert [sign.rank for sign, _ in killed] == [0, 1]
    assert 1.5 <= killed[0][1] <= 3.0


def test_what_is_waited_for_is_said_again_whoever_fails_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter(["waiting for 2 CPUs", None, RuntimeError("Ray is gone"), "waiting for 1 CPU"])
    said = threading.Event()

    def line() -> str | None:
        answer = next(answers, None)
        if isinstance(answer, Exception):
            raise answer
        if answer == "waiting for 1 CPU":
            said.set()
        return answer

    with saying(line, seconds=0.01):
        assert said.wait(60)
    failed = "what is waited for cannot be told (Ray is gone)"
    assert [record.message for record in caplog.records] == ["waiting for 2 CPUs", failed, "waiting for 1 CPU"]
