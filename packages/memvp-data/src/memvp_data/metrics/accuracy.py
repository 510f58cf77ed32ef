"""Share of questions answered right: exact match after light normalisation. The metric of the toy world's tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from memvp_data.samples import Sample


class ScoreError(ValueError):
    """Predictions and samples do not belong together."""


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
    texts = _texts(predictions)
    right: dict[str, list[bool]] = {}
    num_unparsable, seen = 0, set[str]()
    for sample in samples:
        if sample.id in seen:
            raise ScoreError(f"sample {sample.id!r} is there twice; keep one of them")
        text = normalise(_text_of(sample, texts=texts))
        num_unparsable += not text
        seen.add(sample.id)
        right.setdefault(sample.task, []).append(bool(text) and text in map(normalise, sample.answers))
    for unasked in texts.keys() - seen:
        raise ScoreError(f"there is a prediction for {unasked!r}, which is not among the samples; pair the right files")
    outcomes = [outcome for task in right.values() for outcome in task]
    if not outcomes:
        raise ScoreError("there are no samples to score; pass at least one question with its answers")
    by_task: dict[str, dict[str, float | int]] = {
        task: {"accuracy": sum(right[task]) / len(right[task]), "n": len(right[task])} for task in sorted(right)
    }
    return Score(sum(outcomes) / len(outcomes), len(outcomes), by_task, num_unparsable / len(outcomes))


def normalise(text: str) -> str:
    """Strip white space, lower-case, drop one final period: "  Red. " and "red" are the same answer."""
    return text.strip().lower().removesuffix(".").rstrip()


def _texts(predictions: Iterable[dict[str, Any]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, row in enumerate(predictions, start=1):
        if not isinstance(row.get("text"), str) or "question_id" not in row:
            raise ScoreError(f'prediction {number} must have "question_id" and a string "text", got {str(row)[:80]}')
        name = str(row["question_id"])
        if name in texts:
            raise ScoreError(f"there are two predictions for {name!r}; keep one per question")
        texts[name] = row["text"]
    return texts


def _text_of(sample: Sample, *, texts: dict[str, str]) -> str:
    if not sample.answers:
        raise ScoreError(f"sample {sample.id!r} has no answers to score against; read the questions with their answers")
    if sample.id not in texts:
        raise ScoreError(f"there is no prediction for sample {sample.id!r}; predict all samples before scoring")
    return texts[sample.id]
