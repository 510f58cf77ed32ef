"""Random access into a folder of shards through its index. No byte is handed out before its hash is checked."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from memvp_data.manifest import Manifest, ShardError, read_index
from memvp_data.shards import SUFFIXES, verify


class ShardReader:
    """The keys and members of a finished folder. Holds no open files, so it can be copied to other processes."""

    def __init__(self, folder: Path | str, *, verify: Literal["size", "full"] = "size") -> None:
        """`verify="full"` hashes every shard now; "size" checks manifest, index and lengths, and each member when read.

        Raises `ShardError` with the first fault.
        """
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        _refuse_faults(self.folder, full=verify == "full")
        self._columns = read_index(self.folder, manifest=self.manifest)
        self._rows: dict[str, range] = {}
        for number, key in enumerate(self._columns["key"].to_pylist()):
            start = self._rows[key].start if key in self._rows else number
            self._rows[key] = range(start, number + 1)

    def keys(self) -> list[str]:
        """All keys in the order of the shards."""
        return list(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def shard_of(self, key: str) -> str:
        """File name of the shard that holds a key."""
        return self._columns["shard"][self._rows_of(key).start].as_py()

    def read(self, key: str) -> dict[str, bytes]:
        """The members of a key by suffix. Raises `ShardError` naming shard and key if one is not what was written."""
        return dict(self._member(number, key=key) for number in self._rows_of(key))

    def _rows_of(self, key: str) -> range:
        if key not in self._rows:
            raise ShardError(f"there is no key {key!r} in {self.folder} ({len(self)} keys); write its shards with it")
        return self._rows[key]

    def _member(self, number: int, *, key: str) -> tuple[str, bytes]:
        shard, suffix, offset, size, sha256 = (column[number].as_py() for column in self._columns.columns[1:])
        path = self.folder / shard
        if suffix not in SUFFIXES:
            raise ShardError(
                f"shard {path}, key {key!r}: suffix {suffix!r} is not one of {', '.join(sorted(SUFFIXES))}"
            )
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ShardError(f"shard {path} cannot be read at key {key!r} ({error}); write the shards again") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ShardError(f"shard {path} is damaged at key {key!r} ({suffix}, byte {offset}); write it again")
        return suffix, data


def _refuse_faults(folder: Path, *, full: bool) -> None:
    for fault in verify(folder, full=full):
        raise ShardError(fault)
