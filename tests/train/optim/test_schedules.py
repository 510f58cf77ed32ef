"""Every schedule against rates written out, and as a pure function of the step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_train.config import StageConfig
from memvp_train.optim.schedules import Schedule, base_rate_warning, warmup_steps

KINDS = ("cosine", "linear", "constant")


@given(st.sampled_from(KINDS), st.integers(1, 500), st.floats(0, 0.9))
def test_schedule_climbs_to_one_and_never_rises_after(kind: str, num_steps: int, fraction: float) -> None:
    warmup = math.ceil(fraction * num_steps)
    schedule = Schedule(num_steps, warmup, kind)  # type: ignore[arg-type]
    factors = [schedule.factor(step) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert max(factors) == 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", [0.5, 1, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_schedule_against_numbers_worked_out_by_hand(kind: str, expected: list[float]) -> None:
    schedule = Schedule(6, 2, kind)  # type: ignore[arg-type]
    assert [schedule.factor(step) for step in range(6)] == pytest.approx(expected)


def _schedule(stage: StageConfig, *, num_samples: int) -> Schedule:
    num_steps = stage.steps_for(num_samples=num_samples)
    return Schedule(num_steps, warmup_steps(stage, num_steps=num_steps, num_samples=num_samples), stage.schedule)


def test_bart_and_t5_climb_for_a_tenth_then_fall_along_a_line() -> None:
    # 20 epochs of VQAv2 (605,102 questions, Karpathy's split) in batches of 512: 23,637 steps.
    stage = StageConfig(num_epochs=20, global_batch_size=512, schedule="linear", warmup_fraction=0.1)
    schedule = _schedule(stage, num_samples=605_102)
    assert (schedule.num_steps, schedule.warmup) == (23_637, 2_364)
    wanted = {0: 1 / 2364, 1181: 0.5, 2363: 1, 2364: 1, 13_000: 1 - 10_636 / 21_273, 23_636: 1 / 21_273}
    assert {step: schedule.factor(step) for step in wanted} == pytest.approx(wanted)


def test_llama_climbs_for_two_epochs_then_follows_a_cosine_to_zero() -> None:
    # ScienceQA: 12,726 questions in batches of 32, 20 epochs.
    stage = StageConfig(num_epochs=20, global_batch_size=32, warmup_epochs=2)
    schedule = _schedule(stage, num_samples=12_726)
    assert (schedule.num_steps, schedule.warmup) == (7_954, 796)
    half = 796 + 7158 // 2
    wanted = {0: 1 / 796, 397: 0.5, 795: 1, 796: 1, half: 0.5, 7953: math.sin(math.pi / 2 / 7158) ** 2}
    assert {step: schedule.factor(step) for step in wanted} == pytest.approx(wanted)


def test_warm_up_in_steps_is_taken_as_it_is_and_without_any_it_is_3_percent() -> None:
    assert _schedule(StageConfig(num_steps=200, warmup_steps=7), num_samples=5).warmup == 7
    assert _schedule(StageConfig(num_steps=200), num_samples=5).warmup == 6


def test_the_papers_base_rate_is_warned_about_with_the_peak_it_stands_for() -> None:
    warning = base_rate_warning(StageConfig(num_steps=1, learning_rate=9e-3, global_batch_size=32))
    assert warning is not None
    assert "would be 0.001125" in warning
    assert base_rate_warning(StageConfig(num_steps=1, learning_rate=9e-3, global_batch_size=256)) is None
    assert base_rate_warning(StageConfig(num_steps=1, learning_rate=1.125e-3, global_batch_size=32)) is None
