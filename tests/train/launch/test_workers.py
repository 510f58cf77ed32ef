"""Training on Ray: a killed worker changes nothing, what it refuses is told. Worse: tests/faults."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from memvp_train.checkpoints.state import newest_first, read_state
from memvp_train.config import LaunchConfig, LoraSettings
from memvp_train.launch.session import LaunchError
from memvp_train.launch.workers import run_workers
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from tests.train.busy_ray import busy_until_said
from tests.train.plans import plan_of

NUM_STEPS = 40
LAUNCH = LaunchConfig(num_workers=2, max_failures=2)


def _run(tiny: Any, out: Path) -> Any:
    return tiny.run(out, lora=LoraSettings(rank=2, dropout=0.1), num_steps=NUM_STEPS, checkpoint_every=5, log_every=1)


@pytest.fixture(scope="module")
def undisturbed(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two ranks without Ray, from the first step to the last."""
    out = tmp_path_factory.mktemp("undisturbed")
    tiny.train_ranks(plan_of(_run(tiny, out), LAUNCH), num_ranks=2)
    return out


def _assert_same(out: Path, undisturbed: Path) -> None:
    rows, expected = (read_metrics(folder / "metrics.jsonl") for folder in (out, undisturbed))
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    found, wanted = (read_state(newest_first(folder)[0]) for folder in (out / "train", undisturbed / "checkpoints"))
    torch.testing.assert_close(found.weights, wanted.weights, rtol=0, atol=0)
    assert (out / "adapter" / "adapter_config.json").is_file()


@pytest.mark.faults
def test_killed_worker_is_replaced_and_training_ends_the_same(
    tiny: Any, tmp_path: Path, undisturbed: Path, on_ray: str
) -> None:
    killed: list[int] = []

    def kill_one(row: dict[str, float]) -> None:
        if row["step"] >= 12 and not killed:
            workers = [
                p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())
            ]
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

    run_stage(_run(tiny, tmp_path), LAUNCH, on_step=kill_one)
    assert len(killed) == 1
    _assert_same(tmp_path, undisturbed)


def test_what_a_worker_refuses_is_raised_here(tiny: Any, tmp_path: Path, on_ray: str) -> None:
    run = _run(tiny, tmp_path)
    with pytest.raises(LaunchError, match=r"(loss|grad_norm) is (nan|inf) at step \d+"):
        run_stage(
            replace(run, stage=replace(run.stage, learning_rate=1e30, max_grad_norm=0.0)),
            replace(LAUNCH, num_workers=1, max_failures=0),
        )


def test_more_workers_than_this_ray_can_hold_are_refused_at_once(tiny: Any, tmp_path: Path, on_ray: str) -> None:
    run = _run(tiny, tmp_path)
    sentence = r"16 workers with 99 CPUs and 0 GPUs each are asked for, but this Ray has room for 0 .* ask for less"
    with pytest.raises(LaunchError, match=sentence):
        run_stage(
            replace(run, stage=replace(run.stage, global_batch_size=16, micro_batch_size=1)),
            replace(LAUNCH, num_workers=16, cpus_per_worker=99),
        )


@pytest.mark.slow
@pytest.mark.faults
def test_workers_that_wait_for_a_machine_say_so(tmp_path: Path, on_ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memvp_train.launch.workers.SECONDS_BETWEEN", 0.2)
    launch = replace(LAUNCH, num_workers=int(ray.cluster_resources()["CPU"]))
    line = f"waiting for room for {launch.num_workers} workers with 1 CPU and 0 GPUs each: this Ray has "
    with busy_until_said(line, logger="memvp_train.launch.supervision"):
        run_workers(lambda config, **others: None, config={}, launch=launch, name="train", storage=tmp_path)
