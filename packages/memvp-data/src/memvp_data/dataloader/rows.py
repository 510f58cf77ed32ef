"""What batches are made of: samples as rows of tokens, by position, from a list or from a memory-mapped table."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memvp_data.text import Encoded


class SampleRows(Protocol):
    """Samples by position. A sample has one row for each answer it may be given."""

    def __len__(self) -> int: ...
    @property
    def digest(self) -> str:
        """Changes with the samples."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        ...

    @property
    def image_numbers(self) -> NDArray[np.int32]:
        """(samples,): equal for samples of the same images, -1 for none."""
        ...

    @property
    def entry_sizes(self) -> NDArray[np.int64]:
        """(entries,): how many images each of these numbers stands for."""
        ...

    def image_names(self) -> Iterator[str]:
        """Every image, once."""
        ...

    def first_row(self, place: int) -> int:
        """The first row of a sample."""
        ...

    def drawn_rows(self, places: NDArray[np.int64], *, seed: int, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each of these samples in its epoch."""
        ...

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these rows."""
        ...

    def num_labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Learnt tokens of these rows."""
        ...

    def row(self, row: int, *, place: int) -> Encoded:
        """Row `row`, which belongs to sample `place`."""
        ...


class ListedRows:
    """A sequence of samples with one answer each."""

    def __init__(self, samples: Sequence[Encoded]) -> None:
        self._samples = samples
        entries: dict[tuple[str, ...], int] = {}
        numbers = [entries.setdefault(one.image_ids, len(entries)) if one.image_ids else -1 for one in samples]
        self._images = dict.fromkeys(name for images in entries for name in images)
        self.entry_sizes = np.array(list(map(len, entries)), dtype=np.int64)
        self.image_numbers = np.array(numbers, dtype=np.int32)
        self._lengths = np.array([len(one.input_ids) for one in samples], dtype=np.int64)
        self._num_labels = np.array([one.num_labels for one in samples], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def digest(self) -> str:
        """SHA-256 of all that training sees of them."""
        digest = hashlib.sha256()
        for one in self._samples:
            digest.update(repr((one.id, one.input_ids, one.labels, one.image_ids, one.weight)).encode())
        return digest.hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return int(self._lengths.max())

    def image_names(self) -> Iterator[str]:
        """Every image, once."""
        return iter(self._images)

    def first_row(self, place: int) -> int:
        """A sample's only row has its number."""
        return place

    def drawn_rows(self, places: NDArray[np.int64], *, seed: int, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        """There is nothing to draw."""
        return places

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these samples."""
        return self._lengths[rows]

    def num_labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Learnt tokens of these samples."""
        return self._num_labels[rows]

    def row(self, row: int, *, place: int) -> Encoded:
        """The sample."""
        return self._samples[place]


def rows_of(samples: Sequence[Encoded] | SampleRows) -> SampleRows:
    """Samples as rows: themselves if they are rows already, as a `TokenTable` is."""
    return samples if hasattr(samples, "drawn_rows") else ListedRows(samples)  # pyright: ignore
