"""What a folder of shards is made of: the entry of a shard and the row of a member, which manifest and index share."""

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from memvp_data.ids import names_of, with_name


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
        ("name", pa.string()),  # of a key that is shortened; an index without such keys has no such column on disk
    ]
)


class IndexRow(NamedTuple):
    """Where one member lies. `offset` is that of its first payload byte in the shard; `id` is the key with its name."""

    key: str
    shard: str
    suffix: str
    offset: int
    size: int
    sha256: str
    name: str | None = None

    @property
    def id(self) -> str:
        """The key as an id from which `from_id` gives the name, also where it is shortened."""
        return self.key if self.name is None else with_name(self.key, {self.key: self.name})

    def under(self, key: str) -> "IndexRow":
        """The same member under another key."""
        return self._replace(key=str(key), name=names_of([key]).get(key))
