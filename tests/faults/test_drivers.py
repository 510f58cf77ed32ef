"""Drivers killed, started twice, and files damaged between two runs: no committed step is lost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from memvp_train.checkpoints.quarantine import quarantined
from memvp_train.checkpoints.state import newest_first, newest_step
from memvp_train.launch.ray_snapshot import COPY, SNAPSHOT
from memvp_train.training.drive import WORKERS_FOLDER
from memvp_train.training.stage import run_stage
from tests.faults.runs import (
    LAUNCH,
    as_job,
    assert_same_end,
    first_steps,
    skipped_and_doubled,
    stage_run,
)
from tests.train.plans import plan_of

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(4000)]

STEPS, EVERY = 80, 5


@pytest.fixture(scope="module")
def undisturbed(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    tiny.train_ranks(plan_of(_run(tiny, out), LAUNCH), num_ranks=2)
    return out


def _run(tiny: Any, out: Path) -> Any:
    return stage_run(tiny, out, num_steps=STEPS, checkpoint_every=EVERY)


def _driver(job: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.driver", str(job)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_driver_killed_three_times_in_a_row(
    tiny: Any, tmp_path: Path, undisturbed: Path, fault_row: Callable[..., None]
) -> None:
    out = tmp_path / "out"
    job = as_job(_run(tiny, out), LAUNCH, tmp_path / "job.json")
    committed = list[int]()
    for stop in (18, 37, 61):
        driver = _driver(job)
        assert driver.stdout is not None
        for line in driver.stdout:
            if int(line) >= stop:
                break
        below = psutil.Process(driver.pid).children(recursive=True)
        workers = [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]
        driver.kill()
        driver.communicate()
        # Ray's agents take a minute or two to notice; the workers must not outlive the driver for long.
        assert len(workers) == 2
        assert not psutil.wait_procs(workers, timeout=300)[1]
        committed.append(newest_step(out / WORKERS_FOLDER))
        assert committed[-1] < STEPS, "the kill came too late to show anything"
    last = _driver(job)
    _, errors = last.communicate()
    assert last.returncode == 0, errors[-3000:]
    assert first_steps(out) == [1, *(step + 1 for step in committed)]
    prepared = plan_of(_run(tiny, out), LAUNCH)
    assert skipped_and_doubled(out, prepared, tiny) == (0, 0)
    assert_same_end(out, undisturbed, num_steps=STEPS)
    fault_row(
        goal="R2",
        fault="driver killed",
        what_was_done="SIGKILL, then the same command again, three times in a row",
        times=3,
        result=f"went on from steps {', '.join(map(str, committed))}; weights bit-equal",
        figure="0 committed steps lost, 0 samples skipped or doubled",
    )


@pytest.mark.parametrize("damaged", ["cut", "empty", "missing"])
def test_damaged_checkpoint_and_damaged_record_of_ray(
    tiny: Any, tmp_path: Path, on_ray: str, undisturbed: Path, fault_row: Callable[..., None], damaged: str
) -> None:
    first = run_stage(_run(tiny, tmp_path), LAUNCH)
    train = tmp_path / WORKERS_FOLDER
    newest = newest_first(train)[0]
    (newest / "weights.safetensors").write_bytes((newest / "weights.safetensors").read_bytes()[:-4])
    for name in (SNAPSHOT, COPY):
        whole = (train / name).read_bytes()
        (train / name).unlink() if damaged == "missing" else (train / name).write_bytes(
            whole[: len(whole) // 2] if damaged == "cut" else b""
        )
    (tmp_path / "result.json").unlink()
    again = run_stage(_run(tiny, tmp_path), LAUNCH)
    assert (again.final_loss, again.num_quarantined) == (first.final_loss, 1)
    assert quarantined(train)[0]["checkpoint"] == newest.name
    assert len(newest_first(train)) >= 2
    assert_same_end(tmp_path, undisturbed, num_steps=STEPS)
    fault_row(
        goal="R10",
        fault=f"newest checkpoint cut, Ray's record {damaged}",
        what_was_done="weights.safetensors and both copies of the record damaged, then the same command",
        times=1,
        result=f"put aside and reported; went on from step {STEPS - EVERY}, weights bit-equal",
        figure=f"{len(newest_first(train))} sound checkpoints kept",
    )
