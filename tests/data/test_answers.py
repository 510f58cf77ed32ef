"""One answer per access, in proportion to its soft score, by (seed, epoch, sample) alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.answers import drawn_answer, place_of, possible_answers, with_answer
from memvp_data.samples import Sample, Turn

QUESTION, ANSWER = Turn("user", "What?"), Turn("assistant", "shoes")


def scored(**scores: float) -> Sample:
    return Sample("s", (), (QUESTION, ANSWER), answers=tuple(scores), answer_weights=tuple(scores.values()))


def test_answers_come_in_proportion_to_their_scores() -> None:
    sample = scored(shoes=1.0, boots=0.3, hat=0.0, socks=0.6)
    drawn = [drawn_answer(sample, seed=5, epoch=epoch, number=number) for epoch in range(40) for number in range(100)]
    for answer, weight in (("shoes", 1.0), ("boots", 0.3), ("socks", 0.6)):
        share = drawn.count((answer, weight)) / len(drawn)
        assert share == pytest.approx(weight / 1.9, abs=0.032)  # 4 standard deviations of 4000 draws
    assert {answer for answer, _ in drawn} == {"shoes", "boots", "socks"}


def test_a_draw_depends_on_seed_epoch_and_sample_only() -> None:
    sample = scored(**{f"a{number}": 1.0 for number in range(50)})
    changes = [{"seed": 1}, {"epoch": 1}, {"number": 1}, {}]
    first, second = (
        [drawn_answer(sample, **{"seed": 0, "epoch": 0, "number": 0, **change}) for change in changes] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 4


def test_scores_that_sum_to_nothing_give_the_empty_answer() -> None:
    assert drawn_answer(scored(a=0.0, b=0.0), seed=0, epoch=0, number=0) == ("", 0.0)


def test_without_scores_the_conversation_has_its_answer() -> None:
    sample = Sample("s", (), (QUESTION, ANSWER), answers=("a", "b"))
    assert possible_answers(sample) == [(None, 1.0)]
    assert with_answer(sample, None) is sample


def test_an_answer_replaces_the_one_that_is_there() -> None:
    assert with_answer(scored(a=1.0), "boots").turns == (QUESTION, Turn("assistant", "boots"))
    assert with_answer(Sample("s", (), (QUESTION,)), "boots").turns == (QUESTION, Turn("assistant", "boots"))


@given(weights=st.lists(st.floats(0.001, 10), min_size=1, max_size=6), draw=st.floats(0, 1, exclude_max=True))
def test_a_draw_falls_where_the_loop_says(weights: list[float], draw: float) -> None:
    left = draw * float(np.cumsum(weights)[-1])
    place = place_of(draw, weights=weights)
    assert sum(weights[:place]) <= left * (1 + 1e-12)
    assert left <= sum(weights[: place + 1]) * (1 + 1e-12)
