"""Predictions and samples put together: every sample exactly one prediction, and none left over.

A score over other questions than meant would look like one over all, so every mismatch is an error. Answers are kept as
they were written; what a metric makes of them is its own affair.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_lines
from memvp_data.samples import Sample

MAX_ANSWER_CHARACTERS = 100_000


class ScoreError(ValueError):
    """Predictions and samples do not belong together."""


@dataclass(frozen=True)
class Answered:
    """A question with the answer that was given."""

    sample: Sample
    """The question, its right answers and what the metric needs to know of it."""
    text: str
    """The prediction."""

    @property
    def image(self) -> str:
        """What is resampled for intervals: the first image, or the question itself where there is none."""
        return self.sample.image_ids[0] if self.sample.image_ids else f"no image: {self.sample.id}"

    def field(self, name: str) -> str:
        """A field that the metric cannot do without."""
        if name not in self.sample.fields:
            known = ", ".join(sorted(self.sample.fields)) or "none"
            raise ScoreError(
                f"sample {self.sample.id!r} lacks the field {name!r} that this metric needs (it has: {known}); "
                "write the samples table with the reader of this dataset"
            )
        return self.sample.fields[name]

    def choices(self) -> list[str]:
        """The options of a multiple-choice question, a JSON list in the field `choices`."""
        try:
            choices = json.loads(self.field("choices"))
        except (ValueError, RecursionError):
            choices = None
        if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
            raise ScoreError(
                f"sample {self.sample.id!r}: choices must be a JSON list of strings, got {self.field('choices')[:80]!r}"
            )
        return choices


def read_predictions(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a predictions file, JSON Lines of {"question_id", "text"}; other keys are left alone."""
    try:
        return [row for _, row in read_json_lines(Path(path))]
    except DatasetError as error:
        raise ScoreError(f"{error}") from None


def pair(
    predictions: Iterable[dict[str, Any]], samples: Iterable[Sample], *, need_answers: bool = True
) -> list[Answered]:
    """Each sample with its prediction, in the order of the samples. Raises `ScoreError`."""
    texts = _texts(predictions)
    answered, seen = [], set[str]()
    for sample in samples:
        if sample.id in seen:
            raise ScoreError(f"sample {sample.id!r} is there twice; keep one of them")
        seen.add(sample.id)
        if need_answers and not sample.answers:
            raise ScoreError(
                f"sample {sample.id!r} has no answers to score against; read the questions with their answers"
            )
        if sample.id not in texts:
            raise ScoreError(f"there is no prediction for sample {sample.id!r}; predict all samples before scoring")
        answered.append(Answered(sample, texts[sample.id]))
    for unasked in texts.keys() - seen:
        raise ScoreError(f"there is a prediction for {unasked!r}, which is not among the samples; pair the right files")
    if not answered:
        raise ScoreError("there are no samples to score; pass at least one question with its answers")
    return answered


def _texts(predictions: Iterable[dict[str, Any]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, row in enumerate(predictions, start=1):
        name, text = _row(row, number=number)
        if name in texts:
            raise ScoreError(f"there are two predictions for {name!r}; keep one per question")
        if len(text) > MAX_ANSWER_CHARACTERS:
            raise ScoreError(
                f"the prediction for {name!r} has {len(text):,} characters, an answer has at most "
                f"{MAX_ANSWER_CHARACTERS:,}; predict again with fewer new tokens"
            )
        texts[name] = text
    return texts


def _row(row: Any, *, number: int) -> tuple[str, str]:
    name, text = (row.get("question_id"), row.get("text")) if isinstance(row, dict) else (None, None)
    if not isinstance(text, str) or isinstance(name, bool) or not isinstance(name, str | int):
        raise ScoreError(
            f'prediction {number} must have "question_id" and a string "text" (the id text or a whole number), '
            f"got {str(row)[:80]}"
        )
    return str(name), text
