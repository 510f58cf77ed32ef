"""The loss scale falls with every overflow, rises after long peace, and a checkpoint carries it on."""

import math

import pytest
import torch

from memvp_train.optim.loss_scale import GROWTH_INTERVAL, START, LossScale, OverflowingError


def test_without_fp16_nothing_is_scaled_or_left_out() -> None:
    scale = LossScale.for_dtype(torch.bfloat16)
    assert scale.accepts(math.inf)
    assert (scale.value, scale.numbers()) == (1.0, {})


def test_scale_is_halved_by_an_overflow_and_doubled_after_many_good_steps() -> None:
    scale = LossScale.for_dtype(torch.float16)
    assert [scale.accepts(norm) for norm in (1.0, math.inf, math.nan, 1.0)] == [True, False, False, True]
    assert (scale.value, scale.skipped) == (START / 4, 2)
    for _ in range(GROWTH_INTERVAL - 2):
        scale.accepts(1.0)
    assert scale.value == START / 4
    scale.accepts(1.0)
    assert scale.value == START / 2


def test_numbers_carry_it_on() -> None:
    one, two = (LossScale.for_dtype(torch.float16) for _ in range(2))
    for norm in (1.0, math.inf, 1.0, 1.0):
        one.accepts(norm)
    two.restore(one.numbers())
    assert two == one


def test_gradients_that_overflow_at_every_scale_end_training() -> None:
    scale = LossScale.for_dtype(torch.float16)
    for _ in range(16):
        assert not scale.accepts(math.inf)
    with pytest.raises(OverflowingError, match="not finite in fp16 even at loss scale 1; try bf16"):
        scale.accepts(math.inf)
