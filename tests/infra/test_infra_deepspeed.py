"""The DeepSpeed settings on file are those the training engine passes, and DeepSpeed itself accepts them."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from memvp_train.config import LaunchConfig, StageConfig
from memvp_train.engines.deepspeed import deepspeed_settings

ROOT = Path(__file__).resolve().parents[2]


def on_file(stage: int) -> dict[str, Any]:
    return json.loads((ROOT / f"infra/deepspeed/zero{stage}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_file_is_what_the_engine_passes(zero_stage: Literal[2, 3]) -> None:
    # infra/deepspeed/README.md names these numbers.
    stage = StageConfig(num_epochs=1, global_batch_size=128, micro_batch_size=4)
    launch = LaunchConfig(num_workers=8, use_gpu=True, zero_stage=zero_stage, precision="bf16")
    assert deepspeed_settings(stage, launch=launch) == on_file(zero_stage)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_deepspeed_reads_what_is_written(zero_stage: int) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    written = on_file(zero_stage)
    read = DeepSpeedConfig(written)
    assert read.zero_config.stage == zero_stage
    assert read.gradient_clipping == written["gradient_clipping"]
    assert read.train_micro_batch_size_per_gpu == written["train_micro_batch_size_per_gpu"]
    assert read.gradient_accumulation_steps == written["gradient_accumulation_steps"]
    assert read.bfloat16_config.enabled


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_deepspeed_refuses_a_misspelt_setting(zero_stage: int) -> None:
    # So that the test above means something: DeepSpeed checks the names inside zero_optimization.
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    with pytest.raises(ValueError, match="overlap_comms"):
        DeepSpeedZeroConfig(**on_file(zero_stage)["zero_optimization"], overlap_comms=True)
