"""Features copied from mapped shards straight into the tensor that is asked for.

All records of a store begin with the same bytes, the header of safetensors for one shape and type. A record that does
not, or that is not what the index says, is left to the careful way, whose error names the fault. Hashes and numbers are
looked at when a record is first read; its hash is, again, after its shard has changed.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memvp_data.features.mapped import Mapped, MappedShards
from memvp_data.shards.beside import check_all
from memvp_data.shards.verified import ShardState

_WORTH_A_THREAD = 8 << 20  # bytes: hashing less is over before a thread has found its core

# As integers: the smallest pattern of exponent bits that is no finite number, for the four ways to store a float.
_INFINITE = {
    torch.float16: (np.int16, np.uint16, 0x7C00),
    torch.bfloat16: (np.int16, np.uint16, 0x7F80),
    torch.float32: (np.int32, np.uint32, 0x7F80_0000),
    torch.float64: (np.int64, np.uint64, 0x7FF0_0000_0000_0000),
}
DTYPES = tuple(_INFINITE)


def fill_rows(
    found: Tensor, keys: Sequence[str], *, shards: MappedShards, header: bytes, finite: NDArray[np.bool_]
) -> list[int]:
    """Read the features of `keys` into the entries of `found`; the places of those that must be read otherwise.

    `finite` says of the reader's members, by number, which are known to hold no NaN or infinity; it is kept up to date.
    """
    places = sorted((*shards.reader.first_place(key), place) for place, key in enumerate(keys))
    rows = _Rows(found, shards=shards, header=header, finite=finite)
    for shard, group in groupby(places, key=itemgetter(0)):
        rows.read(shard, [_Place(*one) for _, *one in group])
    return sorted(rows.refused)


class _Place(NamedTuple):
    """Where a record lies in a shard, its number in the index, and its place in the tensor."""

    offset: int
    size: int
    number: int
    place: int


class _Rows:
    def __init__(self, found: Tensor, *, shards: MappedShards, header: bytes, finite: NDArray[np.bool_]) -> None:
        self.target, self.numbers = found.view(torch.uint8).numpy().reshape(len(found), -1), _bits(found)
        self.shards, self.header, self.finite, self.refused = shards, header, finite, list[int]()

    def read(self, shard: str, places: list[_Place]) -> None:
        """Copy the records of a shard, and look at those that were not looked at before."""
        data, state = self.shards.at(shard)
        sound, seen, unseen = self.shards.reader.sound, list[_Place](), list[_Place]()
        for one in places:
            (seen if self.finite[one.number] and sound.knows(state, one.number) else unseen).append(one)
        for one in seen:
            self._copy(one, data=data)
        self._look_at(unseen, data=data, state=state)
        if sound.state(shard) is not state:  # it has changed meanwhile, and what was copied may be of before or after
            self.refused += [one.place for one in seen if not self._is_sound(one)]

    def _look_at(self, unseen: list[_Place], *, data: Mapped, state: ShardState) -> None:
        check = partial(self._copy_and_check, data=data, state=state)
        if len(unseen) * self.target.shape[1] >= _WORTH_A_THREAD:
            check_all(unseen, check=check)
            return
        for one in unseen:
            check(one)

    def _copy(self, one: _Place, *, data: Mapped) -> bool:
        """Whether a record of the right length and beginning was there."""
        start, end = one.offset + len(self.header), one.offset + one.size
        is_whole = end <= len(data) and end - start == self.target.shape[1]
        if is_whole:
            self.target[one.place] = data[start:end]
        if is_whole and data[one.offset : start].tobytes() == self.header:
            return True
        self.refused.append(one.place)
        return False

    def _copy_and_check(self, one: _Place, *, data: Mapped, state: ShardState) -> None:
        if not self._copy(one, data=data):
            return
        signed, unsigned, limits = self.numbers
        if self._is_sound(one) and signed[one.place].max() < limits[0] and unsigned[one.place].max() < limits[1]:
            self.shards.reader.sound.add(state, one.number)
            self.finite[one.number] = True  # for ever: all bytes of that hash are
        else:
            self.refused.append(one.place)

    def _is_sound(self, one: _Place) -> bool:
        return _hash(self.header, self.target[one.place]) == self.shards.reader.hash_of(one.number)


def is_finite(features: Tensor) -> bool:
    """Whether none of the numbers is NaN or infinity."""
    signed, unsigned, limits = _bits(features[None])
    return bool(signed.max() < limits[0] and unsigned.max() < limits[1])


def _bits(features: Tensor) -> tuple[NDArray[Any], NDArray[Any], tuple[int, int]]:
    """(n, numbers) as integers, with and without sign, and what both stay below if all are finite.

    NaN and infinity are the largest integers of their sign: finding the largest is many times faster than looking at
    each number.
    """
    kind, unsigned, infinity = _INFINITE[features.dtype]
    signed = features.view(getattr(torch, np.dtype(kind).name)).numpy().reshape(len(features), -1)
    return signed, signed.view(unsigned), (infinity, infinity + (1 << (8 * signed.itemsize - 1)))


def _hash(*parts: bytes | NDArray[Any]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(memoryview(part))  # type: ignore[arg-type]
    return found.hexdigest()
