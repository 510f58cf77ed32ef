"""Intervals hold their value, shrink with more images, and take questions about one image together."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics import bootstrap
from memvp_data.metrics.bootstrap import Difference, Draws, Interval, draw
from memvp_data.metrics.pairing import ScoreError
from memvp_data.metrics.tally import Mark, Measure, Tally, make_tally, tally_marks

MARKS = st.lists(
    st.builds(
        Mark,
        image=st.sampled_from("pqrst"),
        value=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
        groups=st.sampled_from([(), ("g",), ("h",), ("g", "h")]),
        parsable=st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


def intervals(tally: Tally, **how: int) -> dict[str, Interval]:
    return bootstrap.intervals(tally, draw(tally, **how))


def differences(tally: Tally, other: Tally, **how: int) -> dict[str, Difference]:
    return bootstrap.differences(draw(tally, **how), draw(other, **how))


@given(MARKS)
def test_values_are_means_and_intervals_hold_them(marks: list[Mark]) -> None:
    tally = tally_marks(marks)
    found = intervals(tally, resamples=40)
    assert found["accuracy"].value == pytest.approx(100 * sum(mark.value for mark in marks) / len(marks))
    for group in "gh":
        members = [mark.value for mark in marks if group in mark.groups]
        assert (group in found) == bool(members)
        assert not members or found[group].value == pytest.approx(100 * sum(members) / len(members))
        assert not members or found[group].n == len(members)
    assert all(0 <= part.low <= part.value <= part.high <= 100 + 1e-9 for part in found.values())
    assert tally.num_unparsable == sum(not mark.parsable for mark in marks)


@given(MARKS, st.integers(0, 99))
def test_the_order_of_the_questions_changes_nothing(marks: list[Mark], seed: int) -> None:
    shuffled = list(marks)
    random.Random(seed).shuffle(shuffled)
    one, other = (intervals(tally_marks(some), resamples=20) for some in (marks, shuffled))
    for name in one:
        # Adding up in another order moves the last bit.
        assert (one[name].value, one[name].low, one[name].high) == pytest.approx(
            (other[name].value, other[name].low, other[name].high)
        )


def coin(num_images: int, *, per_image: int, seed: int = 0) -> Tally:
    """All questions of an image are right, or none."""
    luck = np.random.default_rng(seed).integers(0, 2, size=num_images)
    return tally_marks(Mark(f"{n:05}", float(value)) for n, value in enumerate(luck) for _ in range(per_image))


def width(tally: Tally) -> float:
    found = intervals(tally)["accuracy"]
    return found.high - found.low


def test_the_width_is_that_of_the_binomial_over_images() -> None:
    # 1.96 * 2 * sqrt(0.25 / 400) = 9.8 points; 1,000 resamples know it to a few percent.
    assert width(coin(400, per_image=1)) == pytest.approx(9.8, rel=0.12)
    assert width(coin(1600, per_image=1)) == pytest.approx(4.9, rel=0.12)


def test_questions_about_one_image_count_once() -> None:
    assert width(coin(400, per_image=10)) == pytest.approx(width(coin(400, per_image=1)), rel=1e-9)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(200):
        found = intervals(coin(100, per_image=2, seed=seed), resamples=200)["accuracy"]
        hits += found.low <= 50 <= found.high
    assert 180 <= hits <= 198  # 95 % of 200 is 190, with a standard deviation of 3


def test_the_same_seed_gives_the_same_numbers() -> None:
    tally = coin(500, per_image=2)
    assert intervals(tally) == intervals(tally)
    assert intervals(tally, seed=1) != intervals(tally)


@given(MARKS)
def test_a_file_does_not_differ_from_itself(marks: list[Mark]) -> None:
    found = differences(tally_marks(marks), tally_marks(marks), resamples=20)
    assert all((part.value, part.low, part.high, part.p) == (0, 0, 0, 1) for part in found.values())


@given(MARKS, st.lists(st.sampled_from([0.0, 1.0]), min_size=30, max_size=30))
def test_exchanging_the_files_turns_the_sign(marks: list[Mark], others: list[float]) -> None:
    one = tally_marks(marks)
    other = tally_marks(Mark(mark.image, value, mark.groups) for mark, value in zip(marks, others, strict=False))
    there, back = differences(one, other, resamples=20), differences(other, one, resamples=20)
    for name, part in there.items():
        assert (part.value, part.low, part.high) == pytest.approx(
            (-back[name].value, -back[name].high, -back[name].low)
        )
        assert part.p == back[name].p
        assert 0 < part.p <= 1


def test_pairing_finds_what_two_intervals_hide() -> None:
    generator = np.random.default_rng(1)
    hard = generator.integers(0, 2, size=300)  # what both get right or wrong
    better = np.where(generator.random(300) < 0.1, 1, hard)
    one, other = (
        tally_marks(Mark(f"{n:03}", float(value)) for n, value in enumerate(values)) for values in (better, hard)
    )
    found = differences(one, other)["accuracy"]
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.01
    assert intervals(one)["accuracy"].low < intervals(other)["accuracy"].high  # apart they overlap


def test_two_files_must_be_about_the_same_images() -> None:
    with pytest.raises(ScoreError, match="a paired test needs two predictions files over the same samples"):
        differences(coin(3, per_image=1), coin(4, per_image=1))


def test_no_resamples_and_undefined_scores() -> None:
    with pytest.raises(ScoreError, match="at least one resample, got 0"):
        intervals(coin(3, per_image=1), resamples=0)
    nothing = {"nothing": Measure(lambda totals: totals["a"] * np.nan, 0)}
    tally = make_tally([("i", {"a": 1.0})], measures=nothing, n=1, num_unparsable=0)
    assert np.isnan([intervals(tally)["nothing"].value, intervals(tally)["nothing"].low]).all()


def test_draws_in_a_file_compare_as_those_they_were_made_from(tmp_path: Path) -> None:
    one, other = draw(coin(40, per_image=2)), draw(coin(40, per_image=2, seed=1))
    one.write(tmp_path / "one.safetensors")
    other.write(tmp_path / "other.safetensors")
    read = [Draws.read(tmp_path / f"{name}.safetensors") for name in ("one", "other")]
    assert bootstrap.differences(*read) == bootstrap.differences(one, other)
    assert read[0].values == one.values


def test_draws_of_other_resamples_are_not_compared() -> None:
    one = draw(coin(40, per_image=2))
    for other in (draw(coin(40, per_image=2), seed=1), draw(coin(40, per_image=2), resamples=10)):
        with pytest.raises(ScoreError, match="a paired test needs"):
            bootstrap.differences(one, other)


def test_a_file_that_holds_no_draws_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for name in ("x.safetensors", "missing.safetensors"):
        with pytest.raises(ScoreError, match=rf"{name} is not a file of resampled scores"):
            Draws.read(tmp_path / name)
