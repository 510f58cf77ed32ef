"""The schedule is a pure function of the step; groups keep LoRA and decay apart."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memvp_train.config import LoraSettings, StageConfig
from memvp_train.optim import build_optimizer, learning_rate_factor, parameter_groups, set_learning_rates


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_schedule_climbs_to_one_then_falls_towards_zero(num_steps: int, warmup_fraction: float) -> None:
    factors = [
        learning_rate_factor(step, num_steps=num_steps, warmup_fraction=warmup_fraction) for step in range(num_steps)
    ]
    warmup = math.ceil(warmup_fraction * num_steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert max(factors) == 1


def test_schedule_against_numbers_worked_out_by_hand() -> None:
    factors = [learning_rate_factor(step, num_steps=6, warmup_fraction=0.3) for step in range(6)]
    assert factors == pytest.approx([0.5, 1, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4])


def test_groups_part_lora_from_memory_and_matrices_from_vectors() -> None:
    trainable = {
        "language_model.layers.0.q_proj.lora_A.default.weight": torch.zeros(2, 3),
        "prompt.projector.0.weight": torch.zeros(4, 3),
        "prompt.projector.0.bias": torch.zeros(4),
    }
    stage = StageConfig(num_steps=1, learning_rate=1.0, lora_learning_rate=0.1, weight_decay=0.5, lora=LoraSettings())
    groups = parameter_groups(trainable, stage=stage)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1.0, 0.0, 1),
        (1.0, 0.5, 1),
        (0.1, 0.5, 1),
    ]


def test_all_groups_follow_the_schedule_from_their_own_peak() -> None:
    parameters = {"prompt.a": torch.nn.Parameter(torch.zeros(2)), "lora_b": torch.nn.Parameter(torch.zeros(2))}
    stage = StageConfig(num_steps=1, learning_rate=1.0, lora_learning_rate=0.1, lora=LoraSettings())
    optimizer = build_optimizer(parameter_groups(parameters, stage=stage), stage=stage)
    for factor in (0.5, 0.25):  # the second call must not build on the first
        assert set_learning_rates(optimizer.param_groups, factor=factor) == factor
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor, 0.1 * factor])
