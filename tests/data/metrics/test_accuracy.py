"""Accuracy counts every question once, and refuses predictions that are not those of the samples."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics.accuracy import ScoreError, normalise, score_predictions
from memvp_data.samples import Sample, Turn

WORDS = ["red", "Red.", " RED ", "blue", "", ".", "2"]


def question(name: str, *answers: str, task: str = "") -> Sample:
    return Sample(name, (), (Turn("user", "?"),), task, answers)


def row(name: str, text: str) -> dict:
    return {"question_id": name, "text": text, "prompt": "ignored"}


def test_a_score_worked_out_by_hand() -> None:
    samples = [
        question("a", "red", task="colour"),
        question("b", "red", "crimson", task="colour"),
        question("c", "2", task="count"),
        question("d", "yes", task="colour"),
    ]
    predictions = [row("d", "..."), row("c", " 2. \n"), row("b", "Crimson"), row("a", " . ")]
    score = score_predictions(predictions, samples)
    assert (score.accuracy, score.n, score.unparsable) == (0.5, 4, 0.25)
    assert score.by_task == {"colour": {"accuracy": pytest.approx(1 / 3), "n": 3}, "count": {"accuracy": 1.0, "n": 1}}


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS), st.sampled_from("xyz")), min_size=1), st.data()
)
def test_the_order_of_the_rows_does_not_matter_and_tasks_add_up(cases: list, data: st.DataObject) -> None:
    samples = [question(str(n), answer, task=task) for n, (_, answer, task) in enumerate(cases)]
    predictions = [row(str(n), text) for n, (text, _, _) in enumerate(cases)]
    random.Random(data.draw(st.integers(0, 100))).shuffle(predictions)
    score = score_predictions(predictions, samples)
    right = [text.strip(" .").lower() == answer.strip(" .").lower() != "" for text, answer, _ in cases]
    assert score.accuracy == pytest.approx(sum(right) / len(right))
    assert sum(task["n"] for task in score.by_task.values()) == score.n == len(cases)
    assert sum(task["n"] * task["accuracy"] for task in score.by_task.values()) == pytest.approx(sum(right))


@given(st.text())
def test_normalising_decides_only_by_case_space_and_a_period(text: str) -> None:
    assert normalise(f"  {text.upper()}. ") == normalise(text.upper() + ".")
    assert "." not in normalise("red.")
    assert normalise("3.5.") == "3.5"


@pytest.mark.parametrize(
    ("predictions", "samples", "message"),
    [
        ([], [question("a", "x")], "no prediction for sample 'a'"),
        ([row("a", "x"), row("b", "x")], [question("a", "x")], "prediction for 'b', which is not among the samples"),
        ([row("a", "x")] * 2, [question("a", "x")], "two predictions for 'a'"),
        ([row("a", "x")], [question("a", "x")] * 2, "sample 'a' is there twice"),
        ([row("a", "x")], [question("a")], "sample 'a' has no answers"),
        ([{"question_id": "a"}], [question("a", "x")], 'prediction 1 must have "question_id" and a string "text"'),
        ([{"text": "a"}], [question("a", "x")], 'prediction 1 must have "question_id"'),
        ([], [], "no samples to score"),
    ],
)
def test_predictions_and_samples_must_pair_up(predictions: list, samples: list, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        score_predictions(predictions, samples)
