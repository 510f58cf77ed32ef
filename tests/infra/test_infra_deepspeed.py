"""The DeepSpeed settings are ones that DeepSpeed itself accepts."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def settings(stage: int) -> dict[str, Any]:
    return json.loads((ROOT / f"infra/deepspeed/zero{stage}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_reads_what_is_written(stage: int) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    written = settings(stage)
    read = DeepSpeedConfig(written)
    assert read.zero_config.stage == stage
    assert read.gradient_clipping == written["gradient_clipping"]
    assert read.train_micro_batch_size_per_gpu == written["train_micro_batch_size_per_gpu"]
    assert read.gradient_accumulation_steps == written["gradient_accumulation_steps"]
    assert read.bfloat16_config.enabled


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_refuses_a_misspelt_setting(stage: int) -> None:
    # So that the test above means something: DeepSpeed checks the names inside zero_optimization.
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    with pytest.raises(ValueError, match="overlap_comms"):
        DeepSpeedZeroConfig(**settings(stage)["zero_optimization"], overlap_comms=True)


def test_the_two_files_differ_in_the_zero_settings_only() -> None:
    two, three = settings(2), settings(3)
    two.pop("zero_optimization"), three.pop("zero_optimization")
    assert two == three
