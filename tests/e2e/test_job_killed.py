"""Kill -9 of a training worker and of the driver; the same job submitted again ends as if nothing had happened."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.e2e.e2e_jobs import (
    ENTRY,
    ON_TWO_WORKERS,
    RECIPE,
    ROOT,
    SECONDS_ON_RAY,
    Head,
    JobRun,
    job_command,
    job_environment,
    run_command,
    submit_command,
    wait_for,
)

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(4000)]

# A checkpoint after each step makes the second stage last long enough to be killed in its middle.
OVERRIDES = (ON_TWO_WORKERS, "--stage2.num_steps=20", "--stage2.checkpoint_every=1")

# Two runs add up gradients in the same order, but evaluation may split its threads differently.
LOSS_TOLERANCE = 1e-5


def lines(storage: Path) -> int:
    """Steps of stage 2 that are written down."""
    return sum(path.read_bytes().count(b"\n") for path in storage.glob("smoke/stage2/*/metrics.jsonl"))


def training_workers(head: Head) -> list[psutil.Process]:
    """Ray Train's workers below this head, and no others on the machine."""
    below = psutil.Process(head.pid).children(recursive=True)
    return [process for process in below if "TrainWorker" in " ".join(process.cmdline())]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> JobRun:
    """The same job on a local Ray of its own."""
    storage = tmp_path_factory.mktemp("undisturbed-on-ray")
    run = run_command(job_command(storage, *OVERRIDES), folder=storage / "smoke", seconds=SECONDS_ON_RAY)
    assert run.code == 0, run.out[-3000:] + run.err[-3000:]
    return run


@pytest.fixture(scope="module")
def killed_twice(ray_head: Head, tmp_path_factory: pytest.TempPathFactory) -> JobRun:
    """A worker killed in the middle of stage 2, then the driver, then the same job by `ray job submit`."""
    storage = tmp_path_factory.mktemp("killed")
    environment = job_environment(RAY_ADDRESS=ray_head.address)
    with open(storage / "driver.log", "w", encoding="utf-8") as log:
        driver = subprocess.Popen(job_command(storage, *OVERRIDES), cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: lines(storage) >= 4, what="step 4 of stage 2", seconds=SECONDS_ON_RAY, process=driver)
        worker = training_workers(ray_head)[-1]
        before = lines(storage)
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not worker.is_running(), what="the worker's end", seconds=60)
        wait_for(lambda: lines(storage) > before + 2, what="a step after the restart", seconds=400, process=driver)
        assert driver.poll() is None
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert lines(storage) < 20, "the driver was killed too late to show anything"
    job = [ENTRY, "--config", RECIPE, *OVERRIDES, f"--storage={storage}"]
    command = submit_command(ray_head.dashboard, *job)
    return run_command(command, folder=storage / "smoke", seconds=SECONDS_ON_RAY)


def test_submitted_job_finishes_what_the_killed_one_began(killed_twice: JobRun) -> None:
    assert killed_twice.code == 0, killed_twice.out[-3000:] + killed_twice.err[-3000:]
    assert killed_twice.report["reused"] == ["build_shards", "extract_features", "stage1"]
    assert str(killed_twice.folder.parent) in killed_twice.out


def test_no_step_is_missing_or_counted_twice(killed_twice: JobRun) -> None:
    assert [row["step"] for row in killed_twice.rows("stage2")] == list(range(1, 21))


def test_losses_are_those_of_an_undisturbed_run(killed_twice: JobRun, undisturbed: JobRun) -> None:
    losses = [[row["loss"] for row in run.rows("stage2")] for run in (killed_twice, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], abs=LOSS_TOLERANCE)
    learning_rates = [[row["learning_rate"] for row in run.rows("stage2")] for run in (killed_twice, undisturbed)]
    assert learning_rates[0] == learning_rates[1]


def test_results_are_those_of_an_undisturbed_run(killed_twice: JobRun, undisturbed: JobRun) -> None:
    for name, row in undisturbed.report["rows"].items():
        assert killed_twice.report["rows"][name]["accuracy"] == pytest.approx(row["accuracy"], abs=0.05)
    expected, got = undisturbed.adapter("stage2"), killed_twice.adapter("stage2")
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float((got[name] - tensor).abs().max()) < 1e-4, name


def test_mlflow_run_was_continued_not_doubled(killed_twice: JobRun) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{killed_twice.folder.parent / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("memvp").experiment_id])
    steps = sorted(run.data.tags.get("memvp.step", "parent") for run in found)
    assert steps == sorted(["parent", "build_shards", "extract_features", "stage1", "stage2", "evaluate", "register"])
    (stage2,) = [run for run in found if run.data.tags.get("memvp.step") == "stage2"]
    points = client.get_metric_history(stage2.info.run_id, "loss")
    assert sorted(point.step for point in points) == list(range(1, 21))
