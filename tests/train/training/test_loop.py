"""A run that is stopped anywhere and continued ends like one that was not: bit for bit, each step written once."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints.lease import LeaseError
from memvp_train.checkpoints.state import FolderCheckpoints, newest_first, read_state
from memvp_train.config import LaunchConfig, LoraSettings
from memvp_train.training.loop import TrainingError
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.worker import train_here
from tests.train.plans import plan_of

NUM_STEPS = 6


class _Stop(Exception):
    """Stands for a kill: nothing of the loop's own clean-up may be needed."""


def _train(
    tiny: Any,
    out: Path,
    *,
    stop_at: int | None = None,
    precision: str = "fp32",
    loader_processes: int = 0,
    **stage: Any,
) -> None:
    run = tiny.run(out, lora=LoraSettings(rank=2, dropout=0.1), num_steps=NUM_STEPS, **stage)
    launch = LaunchConfig(num_workers=0, precision=precision, loader_processes=loader_processes)  # type: ignore[arg-type]
    prepared = plan_of(run, launch)

    def after_step(done: int) -> None:
        if done == stop_at:
            raise _Stop

    train_here(prepared, checkpoints=FolderCheckpoints(out / "checkpoints"), after_step=after_step)


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return read_state(FolderCheckpoints(out / "checkpoints").candidates()[0]).weights


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (5,), (6,), (1, 3, 5)], ids=str)
def test_stopped_run_equals_uninterrupted_one(
    tiny: Any, tmp_path: Path, stops: tuple[int, ...], precision: str
) -> None:
    _train(tiny, tmp_path / "whole", precision=precision)
    for stop in stops:
        with pytest.raises(_Stop):
            _train(tiny, tmp_path / "parts", stop_at=stop, precision=precision)
    _train(tiny, tmp_path / "parts", precision=precision)
    torch.testing.assert_close(_weights(tmp_path / "parts"), _weights(tmp_path / "whole"), rtol=0, atol=0)
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [row["step"] for row in parts] == list(range(1, NUM_STEPS + 1))
    assert [(row["loss"], row["grad_norm"]) for row in parts] == [(row["loss"], row["grad_norm"]) for row in whole]


def test_batches_made_ahead_change_nothing(tiny: Any, tmp_path: Path) -> None:
    _train(tiny, tmp_path / "whole")
    with pytest.raises(_Stop):
        _train(tiny, tmp_path / "ahead", stop_at=3, loader_processes=2)
    _train(tiny, tmp_path / "ahead", loader_processes=1)
    torch.testing.assert_close(_weights(tmp_path / "ahead"), _weights(tmp_path / "whole"), rtol=0, atol=0)


def test_micro_batches_add_up_to_the_global_batch(tiny: Any, tmp_path: Path) -> None:
    still = replace(tiny, memvp={**tiny.memvp, "memory_dropout": 0.0})
    for size in (1, 3, 8):
        run = still.run(tmp_path / str(size), micro_batch_size=size)
        prepared = plan_of(run, LaunchConfig(num_workers=0))
        train_here(prepared, checkpoints=FolderCheckpoints(tmp_path / str(size) / "checkpoints"))
    for size in ("1", "3"):
        # Adam divides by the root of a second moment near 1e-6, which magnifies the last bits of a gradient sum.
        torch.testing.assert_close(_weights(tmp_path / size), _weights(tmp_path / "8"), rtol=1e-4, atol=1e-5)


class _Noticed(FolderCheckpoints):
    """Hears at the second time of asking that the machine will be taken away."""

    asked = 0

    def wanted(self) -> bool:
        self.asked += 1
        return self.asked == 2


@pytest.mark.faults
def test_notice_of_preemption_brings_one_checkpoint_at_the_next_written_step(tiny: Any, tmp_path: Path) -> None:
    settings = {"num_steps": 8, "checkpoint_every": 5, "log_every": 1}
    folders = []
    for kind in (FolderCheckpoints, _Noticed):
        out = tmp_path / kind.__name__
        prepared = plan_of(tiny.run(out, **settings), LaunchConfig(num_workers=0))
        train_here(prepared, checkpoints=kind(out / "checkpoints", keep=10))
        folders.append(out / "checkpoints")
    assert [path.name[-1] for path in newest_first(folders[0])] == ["8", "5"]
    assert [path.name[-1] for path in newest_first(folders[1])] == ["8", "5", "2"]
    ends = [read_state(newest_first(folder)[0]).weights for folder in folders]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


class _TakenOver(FolderCheckpoints):
    """Another job takes the folder over after step 3."""

    checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.checks > 3:
            raise LeaseError("taken over")


@pytest.mark.faults
def test_job_that_was_replaced_writes_neither_metrics_nor_checkpoints(tiny: Any, tmp_path: Path) -> None:
    prepared = plan_of(tiny.run(tmp_path, checkpoint_every=100, log_every=1), LaunchConfig(num_workers=0))
    with pytest.raises(LeaseError):
        train_here(prepared, checkpoints=_TakenOver(tmp_path / "checkpoints"))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert newest_first(tmp_path / "checkpoints") == []


@pytest.mark.faults
def test_infinite_loss_stops_before_it_is_committed(tiny: Any, tmp_path: Path) -> None:
    sentence = r"(loss|grad_norm) is (nan|inf) at step \d+, with samples sample-\d\d, .* lower learning rate"
    with pytest.raises(TrainingError, match=sentence):
        _train(tiny, tmp_path / "out", learning_rate=1e30, max_grad_norm=0.0, checkpoint_every=4)
    assert all(
        torch.isfinite(value).all()
        for path in FolderCheckpoints(tmp_path / "out" / "checkpoints").candidates()
        for value in read_state(path).weights.values()
    )


def test_loop_needs_neither_ray_nor_deepspeed() -> None:
    imports = "import sys, memvp_train.training.worker, memvp_train.training.loop"
    code = f"{imports}; print([m for m in ('ray', 'deepspeed') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
