"""Features copied from mapped shards straight into the tensor that is asked for.

All records of a store begin with the same bytes, the header of safetensors for one shape and type. A record that does
not, or that is not what the index says, is left to the careful way, whose error names the fault. Hashes and numbers are
looked at when a record is first read; its hash is, again, after its shard has changed.
"""

import hashlib
from collections.abc import Collection, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memvp_data.features.mapped import MappedShards
from memvp_data.shards.beside import check_all
from memvp_data.shards.verified import ShardState

_WORTH_A_THREAD = 1 << 20  # bytes: starting one costs a tenth of a millisecond, hashing these half of one

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
    return rows.refused


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
        """Copy the records of a shard, then look at those that were not looked at before."""
        reader, whole = self.shards.reader, list[_Place]()
        data, state = self.shards.at(shard)
        for one in places:
            start, end = one.offset + len(self.header), one.offset + one.size
            if end <= len(data) and end - start == self.target.shape[1]:
                self.target[one.place] = data[start:end]
                if data[one.offset : start].tobytes() == self.header:
                    whole.append(one)
                    continue
            self.refused.append(one.place)
        is_same = reader.sound.state(shard) is state
        known = {one.number for one in whole if is_same and reader.sound.knows(state, one.number)}
        unseen = [one for one in whole if one.number not in known or not self.finite[one.number]]
        check = partial(self._check, state=state, known=known)
        if len(unseen) * self.target.shape[1] < _WORTH_A_THREAD:
            for one in unseen:
                check(one)
        else:
            check_all(unseen, check=check)

    def _check(self, one: _Place, *, state: ShardState, known: Collection[int]) -> None:
        if one.number not in known:
            if _hash(self.header, self.target[one.place]) != self.shards.reader.hash_of(one.number):
                self.refused.append(one.place)
                return
            self.shards.reader.sound.add(state, one.number)
        signed, unsigned, limits = self.numbers
        if signed[one.place].max() < limits[0] and unsigned[one.place].max() < limits[1]:
            # For ever: it is true of all bytes of that hash.
            self.finite[one.number] = True
        else:
            self.refused.append(one.place)


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
