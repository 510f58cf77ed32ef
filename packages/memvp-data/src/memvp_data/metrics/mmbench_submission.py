"""The file that MMBench's server scores: one row per prediction, as an Excel workbook.

Follows scripts/convert_mmbench_for_submission.py of LLaVA (haotian-liu/LLaVA, commit c121f04): the columns of the
question file without hint, category, source, image, comment and l2-category, and the prediction after the options.
Departs: rows come from the samples table, in the order of their index; `answer` is left out when no sample has one (the
test split).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from memvp_data.files.spreadsheet import Cell, write_xlsx
from memvp_data.metrics.mmbench import LETTERS, options_of
from memvp_data.metrics.pairing import Answered, ScoreError, pair
from memvp_data.samples import Sample

DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_PLACE = 6


def submission_columns(columns: Sequence[str]) -> list[str]:
    """Columns of the submission for those of a question file."""
    kept = [column for column in columns if column not in DROPPED]
    return [*kept[:PREDICTION_PLACE], "prediction", *kept[PREDICTION_PLACE:]]


def write_submission(path: Path | str, predictions: Iterable[dict[str, Any]], samples: Iterable[Sample]) -> int:
    """Write the workbook and return its number of rows (without the header)."""
    answered = pair(predictions, samples, need_answers=False)
    has_answers = any(question.sample.answers for question in answered)
    columns = submission_columns(["index", "question", *LETTERS, *["answer"] * has_answers, "split"])
    rows = sorted((_row(question) for question in answered), key=lambda row: int(str(row["index"])))
    write_xlsx(path, [columns, *([row[column] for column in columns] for row in rows)])
    return len(rows)


def _row(question: Answered) -> dict[str, Cell]:
    """By column. The id of a sample is the index of its row, rotations included."""
    sample, options = question.sample, options_of(question)
    if not (sample.id.isdecimal() and sample.turns):
        raise ScoreError(f"sample {sample.id!r} is no row of MMBench, whose ids are numbers; read it with its reader")
    texts = {letter: options.get(letter) for letter in LETTERS}
    answer = sample.answers[0] if sample.answers else None
    asked = {"index": int(sample.id), "question": sample.turns[0].text, "split": question.field("split")}
    return {**asked, **texts, "prediction": question.text, "answer": answer}
