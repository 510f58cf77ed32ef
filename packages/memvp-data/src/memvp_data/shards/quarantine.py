"""What a reader leaves out of a damaged folder when told to go on: which keys of which shard, counted exactly.

A key is left out if any of its members is not, byte for byte, what was written; all others are whole, whatever happened
to the rest of their shard. Manifest and index must be sound: without them nothing can be told.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from memvp_data.files.storage import Folder
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.verification import Fault, find_faults, is_sound, rows_of


@dataclass(frozen=True)
class Quarantine:
    """The account of a folder: `num_kept + num_left_out` is the number of its keys."""

    faults: tuple[str, ...]
    """One line each, as `verify` gives them."""
    left_out: dict[str, tuple[str, ...]]
    """Keys that are not served, by shard."""
    num_kept: int
    """Keys that are."""

    @property
    def num_left_out(self) -> int:
        """Keys of all shards that are not served."""
        return sum(map(len, self.left_out.values()))

    def __str__(self) -> str:
        where = ", ".join(f"{len(keys)} of {shard}" for shard, keys in self.left_out.items()) or "none"
        return f"{self.num_kept} samples kept, {self.num_left_out} left out ({where}), {len(self.faults)} faults"


def inspect(folder: Folder, *, manifest: Manifest, index: pa.Table) -> Quarantine:
    """Hash everything and account for what is wrong."""
    faults = list(find_faults(folder, manifest=manifest, index=index, full=True))
    left_out = dict(_left_out(folder, faults=faults, index=index))
    num_keys = len(set(index["key"].to_pylist()))
    return Quarantine(tuple(fault.message for fault in faults), left_out, num_keys - sum(map(len, left_out.values())))


def _left_out(folder: Folder, *, faults: Iterable[Fault], index: pa.Table) -> Iterator[tuple[str, tuple[str, ...]]]:
    keys_at = dict[tuple[str, int], list[str]]()
    for key, name, offset in zip(*(index[name].to_pylist() for name in ("key", "shard", "offset")), strict=True):
        keys_at.setdefault((name, offset), []).append(key)
    for shard in dict.fromkeys(fault.shard for fault in faults if fault.shard is not None):
        keys = {key: None for row in _unsound(folder, shard=shard, index=index) for key in keys_at[shard, row]}
        if keys:
            yield shard, tuple(keys)


def _unsound(folder: Folder, *, shard: str, index: pa.Table) -> Iterator[int]:
    """Offsets of the members that are not as they were written."""
    rows = rows_of(index, shard=shard)
    try:
        with folder.open(shard) as file:
            yield from [row.offset for row in rows if not is_sound(file, row)]
    except OSError:
        yield from [row.offset for row in rows]
