"""Training in processes of this machine: what a group of ranks does anyway, resumed, refused and killed."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from memvp_train.checkpoints.state import newest_first, read_state
from memvp_train.config import ConfigError, LaunchConfig, LoraSettings
from memvp_train.launch.supervision import LaunchError
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from tests.train.plans import plan_of

APART = LaunchConfig(num_workers=0, local_processes=2)
NUM_STEPS = 6


def _run(tiny: Any, out: Path, **stage: Any) -> Any:
    return tiny.run(out, lora=LoraSettings(rank=2, dropout=0.1), **{"num_steps": NUM_STEPS, **stage})


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return read_state(newest_first(out / "checkpoints")[0]).weights


def test_they_end_with_the_weights_of_a_process_group_bit_for_bit(tiny: Any, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    tiny.train_ranks(plan_of(_run(tiny, wanted), replace(APART, zero_stage=0)), num_ranks=2)
    result = run_stage(_run(tiny, tmp_path / "apart"), APART)
    torch.testing.assert_close(_weights(tmp_path / "apart"), _weights(wanted), rtol=0, atol=0)
    rows, expected = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path / "apart", wanted))
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    assert result.num_steps == NUM_STEPS
    assert (Path(result.adapter_path) / "adapter_config.json").is_file()


def test_without_dropout_they_learn_what_one_process_learns_and_go_on_for_it(tiny: Any, tmp_path: Path) -> None:
    still = replace(tiny, memvp={**tiny.memvp, "memory_dropout": 0.0})
    here = LaunchConfig(num_workers=0)
    run_stage(still.run(tmp_path / "here"), here)
    run_stage(still.run(tmp_path / "apart"), APART)
    (tmp_path / "mixed").mkdir()
    first = tmp_path / "here" / "checkpoints" / "step-000000002"
    first.rename(_made(tmp_path / "mixed" / "checkpoints") / first.name)
    run_stage(still.run(tmp_path / "mixed"), APART)
    for other in ("apart", "mixed"):
        # Adam divides by the root of a second moment near 1e-6, which magnifies the last bits of a gradient sum.
        torch.testing.assert_close(_weights(tmp_path / other), _weights(tmp_path / "here"), rtol=1e-4, atol=1e-5)
    assert [row["step"] for row in read_metrics(tmp_path / "mixed" / "metrics.jsonl")] == [3, 4, 5, 6]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_what_one_refuses_is_the_sentence(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"^(loss|grad_norm) is (nan|inf) at step \d.*try a lower learning rate"):
        run_stage(_run(tiny, tmp_path, learning_rate=1e30, log_every=1, max_grad_norm=0.0), APART)


def test_a_batch_that_cannot_be_shared_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="global_batch_size 8 must be a multiple of the 3 workers"):
        run_stage(_run(tiny, tmp_path), replace(APART, local_processes=3))


@pytest.mark.faults
def test_a_killed_one_ends_the_group_and_the_same_call_goes_on(tiny: Any, tmp_path: Path) -> None:
    wanted, out = tmp_path / "wanted", tmp_path / "out"
    settings = {"num_steps": 40, "log_every": 1}
    run_stage(_run(tiny, wanted, **settings), APART)

    def kill_one(row: dict[str, float]) -> None:
        if row["step"] == 12:
            # The server's own children: it is a child of this process, as is the tracker of its resources.
            ranks = [one for child in psutil.Process().children() for one in child.children()]
            os.kill(ranks[-1].pid, signal.SIGKILL)

    with pytest.raises(LaunchError, match=r"failed \(.*; run the same command again"):
        run_stage(_run(tiny, out, **settings), APART, on_step=kill_one)
    run_stage(_run(tiny, out, **settings), APART)
    torch.testing.assert_close(_weights(out), _weights(wanted), rtol=0, atol=0)
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == list(range(1, 41))
