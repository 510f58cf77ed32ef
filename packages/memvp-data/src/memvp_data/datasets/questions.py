"""Questions of your own: a CSV, TSV or JSON file with an image, a question and an answer in each row.

A .csv or .tsv file names its columns in the first line; a .jsonl file holds one object per line, a .json file an
array of them. Which columns hold what is said by `Columns`. An answer in JSON may be a list, all of whose items are
right; an empty image makes the question text only, an empty answer one that is asked but not scored.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memvp_data.contents import Contents
from memvp_data.datasets.chats import numbered_records
from memvp_data.datasets.csv_files import read_csv
from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.kinds import TABLES, kind_of
from memvp_data.datasets.records import (
    ImageFolder,
    OnceOnly,
    check_no_other_image,
    label,
    said_fields,
    shown,
    text,
    texts,
)
from memvp_data.samples import Sample, Turn, to_id

_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Columns:
    """Names of the columns or JSON fields."""

    image: str = "image"
    """Path of the image below the image root; without that root the column may be missing, and the others always."""
    question: str = "question"
    """What is asked; there must be such a column."""
    answer: str = "answer"
    """The right answer, or a list of them."""
    id: str = "id"
    """Name of the question; the row's number, from 0, where the column is missing."""
    task: str = "task"
    """Group under which a score is broken down."""


def read_questions(
    path: Path | str, *, image_root: Path | str | None, columns: Columns | None = None, needs_answer: bool = False
) -> Iterator[Sample]:
    """Stream the questions of a file, to be scored; `to_learn` makes training samples of them, with `needs_answer`.

    Images must exist below `image_root` (None: not checked). Raises `DatasetError` naming the row, and warns at the end
    of questions that are there more than once.
    """
    images = ImageFolder(image_root)
    return images.whole(_read(Path(path), images=images, columns=columns or Columns(), needs_answer=needs_answer))


def _read(path: Path, *, images: ImageFolder, columns: Columns, needs_answer: bool) -> Iterator[Sample]:
    ids, contents = OnceOnly("id"), Contents()
    # In a table an image column of another name would make all its questions text only.
    needs_image = images.root is not None and kind_of(path) in TABLES
    required = (columns.question, columns.image) if needs_image else (columns.question,)
    for place, number, row in _rows(path):
        with images.placed(place):
            _check_columns(row, required=required)
            sample = _sample(row, number=number, columns=columns, images=images, source=path.name)
            if images.root is not None and not sample.image_ids:
                words = (columns.question, columns.answer, columns.id, columns.task)
                check_no_other_image(row, known=(columns.image,), words=words)
            if needs_answer and not sample.answers:
                raise DatasetError(f"question {sample.id!r} has no answer to learn; add one or leave it out")
            ids.add(sample.id)
        contents.add(sample)
        yield sample
    if contents.repeated:
        warnings.warn(f"{path.name}: {contents.repeated} questions are there again under other ids", stacklevel=2)


def to_learn(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples with their first answer as the assistant's turn. Raises `DatasetError` at one without answer."""
    for sample in samples:
        if not sample.answers:
            raise DatasetError(
                f"{sample.source}: question {sample.id!r} has no answer to learn; add one or leave it out"
            )
        yield replace(sample, turns=(*sample.turns, Turn("assistant", sample.answers[0])))


def _rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    kind = kind_of(path)
    if kind not in TABLES:
        yield from numbered_records(path)
        return
    for number, (line, row) in enumerate(read_csv(path, delimiter=_DELIMITERS[kind])):
        yield f"{path.name}, line {line}", number, row


def _check_columns(row: Mapping[str, Any], *, required: tuple[str, ...]) -> None:
    for name in required:
        if name not in row:
            raise DatasetError(f"there is no column {name!r} among {shown(list(row))}; name yours in Columns")


def _sample(row: Mapping[str, Any], *, number: int, columns: Columns, images: ImageFolder, source: str) -> Sample:
    image, question = text(row, columns.image, default=""), text(row, columns.question)
    if not question.strip():
        raise DatasetError(f"its {columns.question!r} is empty; ask something, or take the row out")
    said = str(number) if row.get(columns.id) in (None, "") else label(row, columns.id)
    return Sample(
        id=to_id(said),
        image_ids=(images.id(image),) if image else (),
        turns=(Turn("user", question),),
        task=text(row, columns.task, default=""),
        answers=_answers(row, columns.answer),
        source=source,
        fields=said_fields(to_id(said), said),
    )


def _answers(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if isinstance(value, list):
        return texts({name: [_as_text(one) for one in value]}, name)
    answer = text({name: _as_text(value)}, name, default="")
    return (answer,) if answer.strip() else ()


def _as_text(value: Any) -> Any:
    """Numbers as they are written; what is neither text nor number is refused by whoever asks for text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
