"""One sample schema for every dataset, and its table on disk (Parquet, one row per sample, one file per split).

Image and sample ids match `[A-Za-z0-9_-]{1,128}`, because webdataset cuts a key at its first dot and because an id must
never become a path by itself. `to_id` maps the names of a dataset into that alphabet and `from_id` maps them back.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from memvp_data.files.atomic import atomic_write

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
SCHEMA_VERSION = "2"
_COLUMNS_1 = [
    ("id", pa.string()),
    ("image_ids", pa.list_(pa.string())),
    ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ("task", pa.string()),
    ("answers", pa.list_(pa.string())),
    ("source", pa.string()),
]
_COLUMNS_2 = [("answer_weights", pa.list_(pa.float64())), ("fields", pa.map_(pa.string(), pa.string()))]
SCHEMA = pa.schema([*_COLUMNS_1, *_COLUMNS_2], metadata={"memvp_samples": SCHEMA_VERSION})
# Version 1 had neither weights nor fields; its tables are still read.
_READABLE = {"1": pa.schema(_COLUMNS_1), SCHEMA_VERSION: SCHEMA}
_ROWS_PER_GROUP = 4096

# "_" opens an escape. The frequent characters of file names get one letter, all others their UTF-8 bytes as "_xHH".
_ESCAPES = {"/": "_s", ".": "_d", "_": "_u"}
_UNESCAPES = {escape: character for character, escape in _ESCAPES.items()}


class SampleError(ValueError):
    """A sample, an id or a samples table is not what it must be."""


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


def check_id(name: str) -> str:
    """Return `name` if it is an id, raise `SampleError` if not."""
    if not ID_PATTERN.fullmatch(name):
        raise SampleError(f"id {name!r} is not 1 to 128 of the characters A-Z a-z 0-9 _ - (map names with to_id)")
    return name


def to_id(foreign: str) -> str:
    """Map a dataset's own name ("coco/train2017/01.jpg") to an id; `from_id` gives the name back.

    Names that would leave their folder are refused: absolute, or with an empty, "." or ".." segment.
    """
    _check_relative(foreign)
    name = re.sub(r"[^A-Za-z0-9-]", lambda match: _escape(match.group()), foreign)
    if not ID_PATTERN.fullmatch(name):
        raise SampleError(f"name {foreign!r} is {len(name)} characters long as an id; 1 to 128 fit, use a shorter name")
    return name


def from_id(name: str) -> str:
    """The dataset's own name behind an id. Refuses ids that `to_id` cannot have made, so names and ids pair up."""
    check_id(name)
    text = re.sub(r"(?:_x[0-9a-f]{2})+|_.?", lambda match: _unescape(match.group(), name=name), name)
    if to_id(text) != name:
        raise SampleError(f"id {name!r} was not made by to_id: its name {text!r} has the id {to_id(text)!r}")
    return text


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


def _check_relative(foreign: str) -> None:
    unsafe = "\\" in foreign or any(ord(character) < 32 for character in foreign)
    if unsafe or any(part in ("", ".", "..") for part in foreign.split("/")):
        raise SampleError(f"name {foreign!r} could leave its folder; use a relative path such as 'train/01.jpg'")


def _escape(character: str) -> str:
    try:
        return _ESCAPES.get(character) or "".join(f"_x{byte:02x}" for byte in character.encode())
    except UnicodeEncodeError:
        raise SampleError(f"name with the lone surrogate {character!r} is not valid text; rename it") from None


def _unescape(escape: str, *, name: str) -> str:
    if escape in _UNESCAPES:
        return _UNESCAPES[escape]
    try:
        return bytes.fromhex(escape.replace("_x", "")).decode()
    except ValueError:
        raise SampleError(f"id {name!r} was not made by to_id: {escape!r} stands for nothing") from None


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
    """Stream the names of the images of each sample, and nothing else of the table."""
    table = _opened(path := Path(path))
    groups = range(table.num_row_groups)
    return (tuple(row["image_ids"]) for row in _rows(table, path=path, row_groups=groups, columns=["image_ids"]))


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
    }


def _from_row(row: dict[str, Any]) -> Sample:
    return Sample(
        id=row["id"],
        image_ids=tuple(row["image_ids"]),
        turns=tuple(Turn(cast(Role, turn["role"]), turn["text"]) for turn in row["turns"]),
        task=row["task"],
        answers=tuple(row["answers"]),
        source=row["source"],
        answer_weights=tuple(row.get("answer_weights", ())),
        fields=dict(row.get("fields", ())),
    )
