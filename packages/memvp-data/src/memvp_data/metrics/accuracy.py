"""Share of questions answered right: exact match after light normalisation. The metric of the toy world's tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memvp_data.metrics.pairing import Answered, ScoreError, pair
from memvp_data.metrics.tally import Mark, Tally, tally_marks
from memvp_data.samples import Sample

__all__ = ["Score", "ScoreError", "normalise", "score_predictions", "tally"]


@dataclass(frozen=True)
class Score:
    """A score with everything needed to read it."""

    accuracy: float
    """Share of right answers, 0 to 1."""
    n: int
    """Number of questions."""
    by_task: dict[str, dict[str, float | int]]
    """{task: {"accuracy", "n"}}, tasks in alphabetical order."""
    unparsable: float
    """Share of predictions with nothing left after normalisation, 0 to 1; they count as wrong."""


def score_predictions(predictions: Iterable[dict[str, Any]], samples: Iterable[Sample]) -> Score:
    """Score rows {"question_id", "text"} against the answers of the samples with these ids; any one answer is right.

    Every sample needs exactly one prediction, and no prediction may be left over: a score over other questions than
    meant would look like one over all. Raises `ScoreError`.
    """
    answered = pair(predictions, samples)
    right: dict[str, list[bool]] = {}
    for question in answered:
        right.setdefault(question.sample.task, []).append(_is_right(question))
    by_task: dict[str, dict[str, float | int]] = {
        task: {"accuracy": sum(right[task]) / len(right[task]), "n": len(right[task])} for task in sorted(right)
    }
    num_right = sum(sum(outcomes) for outcomes in right.values())
    num_unparsable = sum(not normalise(question.text) for question in answered)
    return Score(num_right / len(answered), len(answered), by_task, num_unparsable / len(answered))


def tally(answered: Sequence[Answered]) -> Tally:
    """The same score as counts per image: with an interval, and by task."""
    return tally_marks(
        Mark(question.image, _is_right(question), _groups(question), bool(normalise(question.text)))
        for question in answered
    )


def normalise(text: str) -> str:
    """Strip white space, lower-case, drop one final period: "  Red. " and "red" are the same answer."""
    return text.strip().lower().removesuffix(".").rstrip()


def _is_right(question: Answered) -> bool:
    text = normalise(question.text)
    return bool(text) and text in map(normalise, question.sample.answers)


def _groups(question: Answered) -> tuple[str, ...]:
    return (f"task {question.sample.task}",) if question.sample.task else ()
