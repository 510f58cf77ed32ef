"""A stage with torch.compile trains as one without. In a process of its own, since the compiler keeps what it made."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints.state import FolderCheckpoints, read_state
from memvp_train.config import LaunchConfig, LoraSettings
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.worker import train_here
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)

# Minutes, most of them the compiler's.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def train(plan: dict[str, Any], out: Path) -> None:
    """What the process does."""
    train_here(WorkerPlan.from_plain(plan), checkpoints=FolderCheckpoints(out / "checkpoints"))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_compiled_stage_equals_eager(tiny: Any, tmp_path: Path, checkpointed: bool) -> None:
    for name in ("eager", "compiled"):
        out = tmp_path / name
        settings = {"num_steps": 3, "gradient_checkpointing": checkpointed, "compile": name == "compiled"}
        plan = plan_of(tiny.run(out, lora=LoraSettings(rank=2), **settings), HERE)
        code = f"from {__name__} import train, Path; train({plan.to_plain()!r}, Path({str(out)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    eager, compiled = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("eager", "compiled"))
    # Fused kernels round in other places.
    assert [row["loss"] for row in compiled] == pytest.approx([row["loss"] for row in eager], rel=1e-4)
    states = [
        read_state(FolderCheckpoints(tmp_path / name / "checkpoints").candidates()[0]) for name in ("eager", "compiled")
    ]
    torch.testing.assert_close(states[1].weights, states[0].weights, rtol=1e-3, atol=1e-4)
