"""Tokens of any number of samples in one memory-mapped file: opened in milliseconds, whatever its size.

A sample has one row for each answer it may be given (usually one), and which of them it is given is drawn anew every
epoch, as a pure function of (seed, epoch, sample).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from memvp_data.dataloader.mapped_columns import ColumnsWriter, open_columns
from memvp_data.order import uniform_draws
from memvp_data.text import IGNORED, Encoded

SCHEMA_VERSION = "3"
COLUMNS: dict[str, Any] = {
    "input_ids": np.int32,  # tokens of all rows, one after the other
    "labelled": np.bool_,  # whether each of them is learnt
    "offsets": np.int64,  # (rows + 1,) where each row's tokens begin
    "num_labels": np.int32,  # (rows,)
    "weights": np.float32,  # (rows,) weight in the loss, and in the draw
    "first_rows": np.int64,  # (samples + 1,) where each sample's rows begin
    "images": np.int32,  # (samples,) number of the entry, which is a tuple of images; -1 for none
    "entry_images": np.int32,  # numbers of the images of all entries, one entry after the other
    "entry_offsets": np.int64,  # (entries + 1,)
    "names": np.uint8,  # sample ids, UTF-8
    "name_offsets": np.int64,  # (samples + 1,)
    "image_names": np.uint8,
    "image_name_offsets": np.int64,
}

_NAMES_AT_ONCE = 1 << 14


class TokenTableError(ValueError):
    """A token table is missing, damaged or of another schema."""


class TokenTableWriter:
    """Adds samples one by one and keeps only the names of images in memory."""

    def __init__(self, path: Path | str) -> None:
        self._columns = ColumnsWriter(path, columns=COLUMNS)
        self._images: dict[str, int] = {}
        self._entries: dict[tuple[str, ...], int] = {}
        self._num_rows = self._num_tokens = self._num_name_bytes = self._longest = 0
        self.num_samples = 0
        for name in ("offsets", "first_rows", "name_offsets", "image_name_offsets"):
            self._columns.append(name, [0])

    def add(self, answers: Sequence[Encoded]) -> None:
        """Add a sample: one `Encoded` per answer it may be given, all of one id and the same images."""
        if not answers or len({(one.id, one.image_ids) for one in answers}) != 1:
            raise ValueError(f"a sample has one or more answers of one id and the same images, got {list(answers)!r}")
        for one in answers:
            self._add_row(one)
        self._columns.append("first_rows", [self._num_rows])
        image_ids = answers[0].image_ids
        number = self._entries.setdefault(image_ids, len(self._entries)) if image_ids else -1
        for image_id in image_ids:
            self._images.setdefault(image_id, len(self._images))
        self._columns.append("images", [number])
        name = answers[0].id.encode()
        self._num_name_bytes += len(name)
        self._columns.append("names", np.frombuffer(name, np.uint8))
        self._columns.append("name_offsets", [self._num_name_bytes])
        self.num_samples += 1

    def close(self, metadata: Mapping[str, str]) -> str:
        """Write the file, atomically, and return its digest."""
        names = [name.encode() for name in self._images]
        self._columns.append("image_names", np.frombuffer(b"".join(names), np.uint8))
        self._columns.append("image_name_offsets", np.cumsum([len(name) for name in names], dtype=np.int64))
        self._columns.append("entry_images", [self._images[name] for entry in self._entries for name in entry])
        self._columns.append("entry_offsets", np.cumsum([0, *map(len, self._entries)], dtype=np.int64))
        sizes = {"longest": str(self._longest), "token_table": SCHEMA_VERSION}
        return self._columns.close({**metadata, **sizes})

    def __enter__(self) -> "TokenTableWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self._columns.__exit__(*error)

    def _add_row(self, one: Encoded) -> None:
        self._columns.append("input_ids", one.input_ids)
        self._columns.append("labelled", np.asarray(one.labels) != IGNORED)
        self._num_tokens += len(one.input_ids)
        self._columns.append("offsets", [self._num_tokens])
        self._columns.append("num_labels", [one.num_labels])
        self._columns.append("weights", [one.weight])
        self._longest = max(self._longest, len(one.input_ids))
        self._num_rows += 1


class TokenTable(Sequence[Encoded]):
    """The samples of a `TokenTableWriter` by position, each with its first answer; `rows` and `drawn_rows` give others.

    `with_images=False` hands them out as text only. Raises `TokenTableError` if the file is no whole token table.
    """

    def __init__(self, path: Path | str, *, with_images: bool = True) -> None:
        try:
            columns, self.metadata = open_columns(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TokenTableError(f"token table {path} is missing or damaged ({error}); write it again") from None
        if self.metadata.get("token_table") != SCHEMA_VERSION or set(columns) != set(COLUMNS):
            raise TokenTableError(f"{path} is not a token table of schema {SCHEMA_VERSION}; write it again")
        self._columns, self.with_images, self._path = columns, with_images, Path(path)

    def __getstate__(self) -> dict[str, Any]:
        """To another process goes the path, not the data behind the map."""
        return {**self.__dict__, "_columns": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._columns, _ = open_columns(self._path)

    def __len__(self) -> int:
        return len(self._columns["images"])

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | list[Encoded]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self.row(self.first_row(place), place=place)

    def __iter__(self) -> Iterator[Encoded]:
        return (self[place] for place in range(len(self)))

    @property
    def digest(self) -> str:
        """SHA-256 of all columns; with another one it is other data."""
        return f"{self.metadata['digest']}{'' if self.with_images else ' without images'}"

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.metadata["longest"])

    @property
    def image_numbers(self) -> NDArray[np.int32]:
        """(samples,): equal for samples of the same images, -1 for none."""
        images = self._columns["images"]
        return images if self.with_images else np.broadcast_to(np.int32(-1), images.shape)

    @property
    def entry_sizes(self) -> NDArray[np.int64]:
        """(entries,): how many images each of these numbers stands for."""
        return np.diff(self._columns["entry_offsets"])

    def image_names(self) -> Iterator[str]:
        """Every image that a sample needs, once."""
        offsets, names = self._columns["image_name_offsets"], self._columns["image_names"]
        num_images = len(offsets) - 1 if self.with_images else 0
        for first in range(0, num_images, _NAMES_AT_ONCE):
            edges = offsets[first : min(first + _NAMES_AT_ONCE, num_images) + 1].tolist()
            text = names[edges[0] : edges[-1]].tobytes()
            for start, stop in pairwise(edges):
                yield text[start - edges[0] : stop - edges[0]].decode()

    def first_row(self, place: int) -> int:
        """The first row of a sample."""
        return int(self._columns["first_rows"][place])

    def drawn_rows(self, places: NDArray[np.int64], *, seed: int, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each of these samples in its epoch, drawn with probability proportional to the rows' weights."""
        first = self._columns["first_rows"]
        rows, ends = np.asarray(first[places]), np.asarray(first[places + 1])
        draws = uniform_draws(places, seed=seed, epochs=epochs)
        for number in np.flatnonzero(ends - rows > 1):
            weights = np.cumsum(self._columns["weights"][rows[number] : ends[number]], dtype=np.float64)
            rows[number] += np.searchsorted(weights, draws[number] * weights[-1], side="right")
        return rows

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these rows."""
        return self._columns["offsets"][rows + 1] - self._columns["offsets"][rows]

    def num_labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Learnt tokens of these rows."""
        return self._columns["num_labels"][rows]

    def row(self, row: int, *, place: int) -> Encoded:
        """Row `row`, which belongs to sample `place`."""
        start, stop = self._columns["offsets"][row : row + 2].tolist()
        ids = self._columns["input_ids"][start:stop]
        labels = np.where(self._columns["labelled"][start:stop], ids, IGNORED)
        weight = float(self._columns["weights"][row])
        name, image_ids = self._name("name", place), self._image_ids(place)
        return Encoded(name, tuple(ids.tolist()), tuple(labels.tolist()), image_ids, weight)

    def _image_ids(self, place: int) -> tuple[str, ...]:
        entry = int(self._columns["images"][place]) if self.with_images else -1
        if entry < 0:
            return ()
        start, stop = self._columns["entry_offsets"][entry : entry + 2].tolist()
        return tuple(self._name("image_name", image) for image in self._columns["entry_images"][start:stop].tolist())

    def _name(self, kind: str, number: int) -> str:
        start, stop = self._columns[f"{kind}_offsets"][number : number + 2].tolist()
        return self._columns[f"{kind}s"][start:stop].tobytes().decode()
