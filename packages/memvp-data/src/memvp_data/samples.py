"""One sample schema for every dataset, and its table on disk (Parquet, one row per sample, one file per split).

What an id is, and the name behind it, says ids.py; a table has the names of shortened ids in a column of their own.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from memvp_data.files.atomic import atomic_write
from memvp_data.ids import ID_PATTERN as ID_PATTERN
from memvp_data.ids import SampleError as SampleError
from memvp_data.ids import check_id, names_of, with_name
from memvp_data.ids import from_id as from_id
from memvp_data.ids import to_id as to_id

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)

SCHEMA_VERSION = "3"
_COLUMNS_1 = [
    ("id", pa.string()),
    ("image_ids", pa.list_(pa.string())),
    ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ("task", pa.string()),
    ("answers", pa.list_(pa.string())),
    ("source", pa.string()),
]
_COLUMNS_2 = [("answer_weights", pa.list_(pa.float64())), ("fields", pa.map_(pa.string(), pa.string()))]
_COLUMNS_3 = [("names", pa.map_(pa.string(), pa.string()))]  # of the shortened ids of a row
SCHEMA = pa.schema([*_COLUMNS_1, *_COLUMNS_2, *_COLUMNS_3], metadata={"memvp_samples": SCHEMA_VERSION})
# Version 1 had neither weights nor fields, version 2 no names; their tables are still read.
_READABLE = {"1": pa.schema(_COLUMNS_1), "2": pa.schema([*_COLUMNS_1, *_COLUMNS_2]), SCHEMA_VERSION: SCHEMA}
_ROWS_PER_GROUP = 4096


class Fields(Mapping[str, str]):
    """A few named strings that never change, in the order of their names. Equal to a dict of the same content."""

    __slots__ = ("_pairs",)

    def __init__(self, content: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = tuple(sorted(dict(content).items()))

    def __getitem__(self, name: str) -> str:
        for known, value in self._pairs:
            if known == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Fields({dict(self._pairs)})"


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    text: str
    """What is said, without any image placeholder."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise SampleError(f"role must be one of {', '.join(ROLES)}, got {self.role!r}")
        _check_text(self.text)


@dataclass(frozen=True)
class Sample:
    """One conversation about no, one or several images."""

    id: str
    """Name of the sample, see `to_id`."""
    image_ids: tuple[str, ...]
    """Names of its images, () for text only."""
    turns: tuple[Turn, ...]
    """The conversation; a question that waits for its answer ends in a user turn."""
    task: str = ""
    """Group under which a score is broken down."""
    answers: tuple[str, ...] = ()
    """Right answers of the last question; () where the conversation itself holds all that is learnt."""
    source: str = ""
    """File the sample came from."""
    answer_weights: tuple[float, ...] = ()
    """How right each answer is, parallel to `answers`; () means all 1."""
    fields: Mapping[str, str] = Fields()
    """What the official metric needs beside the answers, such as "answer_type"; any mapping is copied."""

    def __post_init__(self) -> None:
        for name in (self.id, *self.image_ids):
            check_id(name)
        for text in (self.task, *self.answers):
            _check_text(text)
        if self.answer_weights:
            _check_weights(self.answer_weights, num_answers=len(self.answers))
        if not isinstance(self.fields, Fields):
            object.__setattr__(self, "fields", _checked_fields(self.fields))


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SampleError(f"text {text[:40]!r} holds half a surrogate pair; write it as valid Unicode") from None


def _check_weights(weights: tuple[float, ...], *, num_answers: int) -> None:
    if len(weights) != num_answers:
        raise SampleError(f"{len(weights)} answer weights for {num_answers} answers; give one each, or none for all 1")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise SampleError(f"answer weights must be finite and not negative, got {weights}")


def _checked_fields(fields: Mapping[str, str]) -> Fields:
    for name, value in fields.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SampleError(
                f"fields must be strings by name, got {name!r}: {value!r}; write numbers and lists as JSON"
            )
        _check_text(name)
        _check_text(value)
    return Fields(fields)


def write_samples(path: Path | str, samples: Iterable[Sample]) -> int:
    """Write a samples table atomically, one row group at a time, and return the number of samples."""
    rows, count = iter(samples), 0
    with atomic_write(Path(path)) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        while group := [_to_row(sample) for sample in islice(rows, _ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
            count += len(group)
    return count


def read_samples(path: Path | str, *, start: int = 0, stop: int | None = None) -> Iterator[Sample]:
    """Stream the samples of a table in their order, or those at `start` up to `stop`: parts before are not read.

    Raises `SampleError` at once if it is no such table.
    """
    table = _opened(path := Path(path))
    groups, skipped = _row_groups(table, start=start, stop=stop)
    rows = _rows(table, path=path, row_groups=groups, columns=None)
    return map(_from_row, islice(rows, start - skipped, None if stop is None else max(stop, start) - skipped))


def read_image_ids(path: Path | str) -> Iterator[tuple[str, ...]]:
    """Stream the ids of the images of each sample, and nothing else of the table."""
    table = _opened(path := Path(path))
    columns = [name for name in ("image_ids", "names") if name in table.schema_arrow.names]
    rows = _rows(table, path=path, row_groups=range(table.num_row_groups), columns=columns)
    return (_image_ids(row) for row in rows)


def _opened(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise SampleError(f"samples table {path} does not exist; write it with memvp_data.samples.write_samples")
    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise SampleError(f"samples table {path} is not a readable Parquet file ({error}); write it again") from error
    version = (table.schema_arrow.metadata or {}).get(b"memvp_samples", b"").decode()
    if version not in _READABLE or not table.schema_arrow.equals(_READABLE[version]):
        table.close()
        known = " or ".join(_READABLE)
        raise SampleError(f"{path} is not a samples table of schema {known}; write it with write_samples")
    return table


def _row_groups(table: pq.ParquetFile, *, start: int, stop: int | None) -> tuple[range, int]:
    """The row groups that hold the rows from `start` up to `stop`, and how many rows stand before them."""
    ends = list(accumulate(table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)))
    first = bisect_right(ends, start)
    last = len(ends) if stop is None else bisect_left(ends, stop) + 1
    return range(first, min(last, len(ends))), ends[first - 1] if first else 0


def _rows(
    table: pq.ParquetFile, *, path: Path, row_groups: Sequence[int], columns: list[str] | None
) -> Iterator[dict[str, Any]]:
    with table:
        try:
            for batch in table.iter_batches(batch_size=1024, row_groups=list(row_groups), columns=columns):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise SampleError(f"samples table {path} is damaged ({error}); write it again") from error


def _to_row(sample: Sample) -> dict[str, Any]:
    turns = [{"role": turn.role, "text": turn.text} for turn in sample.turns]
    return {
        "id": sample.id,
        "image_ids": sample.image_ids,
        "turns": turns,
        "task": sample.task,
        "answers": sample.answers,
        "source": sample.source,
        "answer_weights": sample.answer_weights,
        "fields": list(sample.fields.items()),
        "names": list(names_of((sample.id, *sample.image_ids)).items()),
    }


def _image_ids(row: dict[str, Any]) -> tuple[str, ...]:
    names = dict(row.get("names", ()))
    return tuple(with_name(name, names) for name in row["image_ids"])


def _from_row(row: dict[str, Any]) -> Sample:
    return Sample(
        id=with_name(row["id"], dict(row.get("names", ()))),
        image_ids=_image_ids(row),
        turns=tuple(Turn(cast(Role, turn["role"]), turn["text"]) for turn in row["turns"]),
        task=row["task"],
        answers=tuple(row["answers"]),
        source=row["source"],
        answer_weights=tuple(row.get("answer_weights", ())),
        fields=dict(row.get("fields", ())),
    )
