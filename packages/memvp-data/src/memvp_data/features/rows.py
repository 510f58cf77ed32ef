"""Features read from local shards straight into the tensor that is asked for: no copy on the way.

All records of a store begin with the same bytes, the header of safetensors for one shape and type. A record that does
not, or that is not what the index says, is left to the careful way, whose error names the fault.
"""

import hashlib
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memvp_data.shards.reader import ShardReader

# As integers: the smallest pattern of exponent bits that is no finite number, for the four ways to store a float.
_INFINITE = {
    torch.float16: (np.int16, np.uint16, 0x7C00),
    torch.bfloat16: (np.int16, np.uint16, 0x7F80),
    torch.float32: (np.int32, np.uint32, 0x7F80_0000),
    torch.float64: (np.int64, np.uint64, 0x7FF0_0000_0000_0000),
}
DTYPES = tuple(_INFINITE)


def fill_rows(found: Tensor, keys: Sequence[str], *, reader: ShardReader, header: bytes) -> list[int]:
    """Read the features of `keys` into the entries of `found`; the places of those that must be read otherwise."""
    places = sorted((*reader.first_place(key), place) for place, key in enumerate(keys))
    target, (signed, unsigned, limits) = found.view(torch.uint8).numpy().reshape(len(keys), -1), _bits(found)
    refused, start, payload_size = list[int](), bytearray(len(header)), target.shape[1]
    for shard, group in groupby(places, key=itemgetter(0)):
        is_hashed = reader.is_hashed(shard)
        with reader.opened(shard) as file:
            for _, offset, size, number, place in group:
                file.seek(offset)
                whole = size == len(start) + payload_size == _read(file, start) + _read(file, target[place])
                sound = (
                    whole and start == header and (is_hashed or _hash(start, target[place]) == reader.hash_of(number))
                )
                if not (sound and signed[place].max() < limits[0] and unsigned[place].max() < limits[1]):
                    refused.append(place)
    return refused


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


def _read(file: Any, into: bytearray | NDArray[Any]) -> int:
    """How many bytes the file still had for it."""
    return file.readinto(into)


def _hash(*parts: bytearray | NDArray[Any]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(memoryview(part))  # type: ignore[arg-type]
    return found.hexdigest()
