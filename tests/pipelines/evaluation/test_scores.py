"""Accuracies as shares are those of counting questions one by one, tasks or none."""

from dataclasses import asdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics.accuracy import score_predictions
from memvp_data.metrics.suite import score
from memvp_data.samples import Sample, Turn
from pipelines.evaluation.scores import accuracy_of

QUESTIONS = st.lists(
    st.tuples(
        st.sampled_from(["", "colour", "shape"]), st.sampled_from(["red", "Red.", "blue", ""]), st.integers(0, 3)
    ),
    min_size=1,
    max_size=60,
)


@given(QUESTIONS)
def test_shares_are_those_of_counting(questions: list[tuple[str, str, int]]) -> None:
    samples = [
        Sample(f"q{n}", (f"i{image}",), (Turn("user", "?"),), task=task, answers=("red",))
        for n, (task, _, image) in enumerate(questions)
    ]
    given_: list[dict[str, Any]] = [{"question_id": f"q{n}", "text": text} for n, (_, text, _) in enumerate(questions)]
    counted = asdict(score_predictions(given_, samples))
    assert accuracy_of(score("accuracy", given_, samples, resamples=5).as_json()) == counted
