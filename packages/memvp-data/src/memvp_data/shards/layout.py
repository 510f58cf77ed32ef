"""What a folder of shards is made of: the entry of a shard and the row of a member, which manifest and index share."""

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa


@dataclass(frozen=True)
class ShardEntry:
    """One shard as the manifest knows it."""

    name: str
    """File name in the folder."""
    sha256: str
    """Hash of the whole file."""
    num_bytes: int
    """Length of the file."""
    num_samples: int
    """Number of keys in it."""


INDEX_NAME = "index.parquet"


# Nothing that a reader would have to unpickle.
SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "safetensors", "json", "txt"})


INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("suffix", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)


class IndexRow(NamedTuple):
    """Where one member lies. `offset` is that of its first payload byte in the shard."""

    key: str
    shard: str
    suffix: str
    offset: int
    size: int
    sha256: str
