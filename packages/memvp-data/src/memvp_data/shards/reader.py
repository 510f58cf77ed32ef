"""Random and ordered access to a folder of shards through its index. No byte is handed out before its hash is checked.

The check is that of the member when it is first read, or that of the whole shard if this reader has taken it; what was
checked once is trusted until the file changes.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.compute as pc

from memvp_data.files.storage import Folder, ShardError
from memvp_data.shards.beside import checked_in_order
from memvp_data.shards.deduplication import same_of
from memvp_data.shards.layout import IndexRow
from memvp_data.shards.manifest import Manifest, read_index
from memvp_data.shards.quarantine import Quarantine, inspect
from memvp_data.shards.verification import find_faults
from memvp_data.shards.verified import ShardState, SoundMembers

Verify = Literal["size", "full", "background"]
OnDamage = Literal["fail", "quarantine"]
_ROWS_AT_ONCE = 2048


class ShardReader:
    """The keys and members of a finished folder. Holds no open files, so it can be copied to other processes."""

    def __init__(
        self,
        folder: Path | str,
        *,
        verify: Verify = "size",
        on_damage: OnDamage = "fail",
        shards: Path | str | None = None,
    ) -> None:
        """A folder by path or URL; `shards` is where its tars lie if not beside the manifest.

        verify: "size" checks manifest, index, lengths and counts now, and each member when it is first read; "full"
        hashes every shard now; "background" checks all members in a thread while reading goes on, each once whoever
        comes first, and a fault stops the next read.
        on_damage: "fail" raises `ShardError` with the first fault; "quarantine" hashes everything now, leaves damaged
        keys out, and `quarantine` has the account.
        """
        _check_modes(verify, on_damage)
        self.folder = Folder.at(folder)
        self.manifest = Manifest.load(self.folder)
        self._tars = Folder.at(shards) if shards is not None else self.folder
        self._index = read_index(self.folder, manifest=self.manifest)
        self._columns = [column.combine_chunks() for column in self._index.columns]
        names = self._columns[1].dictionary_encode()
        self._names, self._codes = names.dictionary.to_pylist(), names.indices.to_numpy()
        self._offsets, self._sizes = (column.to_numpy() for column in self._columns[3:5])
        self.sound = SoundMembers(self._tars, manifest=self.manifest, index=self._index)
        self.quarantine = self._check(verify=verify, on_damage=on_damage)
        self._rows = dict(self._places())

    def keys(self) -> list[str]:
        """All keys in the order of the shards."""
        return list(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    @cached_property
    def same(self) -> dict[str, str]:
        """Keys whose content is stored under another key, each with that key."""
        return same_of((row.id, row.shard, row.offset) for row in self._all_rows())

    def shard_of(self, key: str) -> str:
        """File name of the shard that holds a key."""
        return self._row(self._rows_of(key).start).shard

    def stored_in(self, shard: str) -> list[str]:
        """Keys of a shard in its order, without those that stand for another one (see `same`)."""
        keys = dict.fromkeys(row.id for row in _index_rows(self._index.filter(pc.field("shard") == shard)))
        return [key for key in keys if key in self._rows and key not in self.same]

    @property
    def is_local(self) -> bool:
        """Whether the shards lie on this machine's disks."""
        return self._tars.local is not None

    def rows(self, key: str) -> list[IndexRow]:
        """Where the members of a key lie."""
        return [self._row(number) for number in self._rows_of(key)]

    def first_place(self, key: str) -> tuple[str, int, int, int]:
        """Shard, offset and size of the first member of a key, and its number in the index: faster than `rows`."""
        number = self._rows_of(key).start
        return self._names[self._codes[number]], int(self._offsets[number]), int(self._sizes[number]), number

    def hash_of(self, number: int) -> str:
        """SHA-256 of the member of that number."""
        return self._columns[5][number].as_py()

    def is_hashed(self, shard: str) -> bool:
        """Whether this reader has hashed all of a shard, which has not changed since. Raises what was found amiss."""
        return shard in self.sound

    @property
    def num_members(self) -> int:
        """Rows of the index."""
        return len(self._index)

    def path_of(self, shard: str) -> Path:
        """A shard on this machine's disks; what is read from it is unchecked."""
        return self._tars.path_of(shard)

    def opened(self, shard: str) -> BinaryIO:
        """A shard for reading; what is read from it is unchecked."""
        try:
            return self._tars.open(shard)
        except OSError as error:
            raise self._unreadable(shard, error) from None

    def read(self, key: str) -> dict[str, bytes]:
        """The members of a key by suffix. Raises `ShardError` naming shard and key if one is not what was written."""
        rows = self.rows(key)
        state = self.sound.state(rows[0].shard)
        numbered = zip(self._rows[key], rows, strict=True)
        return _by_suffix(self._checked([_Member(number, row, self._bytes(row), state) for number, row in numbered]))

    def stream(self, shards: Collection[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(key, members) of all shards or these, in their order: each is opened once and read forwards."""
        rows = (
            (number, row)
            for number, row in enumerate(self._all_rows())
            if row.key in self._rows and (shards is None or row.shard in shards)
        )
        read = self._read_in_order(rows)
        if all(entry.name in self.sound for entry in self.manifest.shards if shards is None or entry.name in shards):
            checked = map(self._checked, read)
        else:
            checked = checked_in_order(read, check=self._checked, num_bytes=_num_bytes)
        for members in checked:
            self.sound.raise_fault()
            yield members[0].row.id, _by_suffix(members)

    def wait_until_verified(self) -> None:
        """With `verify="background"`: until every shard is hashed. Raises `ShardError` at a fault."""
        self.sound.wait()

    def _check(self, *, verify: Verify, on_damage: OnDamage) -> Quarantine | None:
        if on_damage == "quarantine":
            return inspect(self._tars, manifest=self.manifest, index=self._index)
        for fault in find_faults(self._tars, manifest=self.manifest, index=self._index, full=False):
            raise ShardError(fault.message)
        for entry in self.manifest.shards if verify == "full" else ():
            for message in self.sound.hash(entry):
                raise ShardError(message)
        if verify == "background":
            self.sound.start()
        return None

    def _places(self) -> Iterator[tuple[str, range]]:
        """Of every key that is served, the numbers of its rows in the index."""
        left_out = {key for keys in self.quarantine.left_out.values() for key in keys} if self.quarantine else ()
        number, is_shortened = 0, self._columns[6].is_valid().to_numpy(zero_copy_only=False)
        for key, rows in groupby(self._columns[0].to_pylist()):
            start, number = number, number + len(list(rows))
            if key not in left_out:
                yield self._row(start).id if is_shortened[start] else key, range(start, number)

    def _rows_of(self, key: str) -> range:
        if key not in self._rows:
            raise ShardError(f"there is no key {key!r} in {self.folder} ({len(self)} keys); write its shards with it")
        return self._rows[key]

    def _row(self, number: int) -> IndexRow:
        return IndexRow(*(column[number].as_py() for column in self._columns))

    def _all_rows(self) -> Iterator[IndexRow]:
        return _index_rows(self._index)

    def _read_in_order(self, rows: Iterable[tuple[int, IndexRow]]) -> Iterator["_Members"]:
        for shard, in_shard in groupby(rows, key=lambda one: one[1].shard):
            with self.opened(shard) as file:
                state = self.sound.state(shard)
                for _, members in groupby(in_shard, key=lambda one: one[1].key):
                    yield [_Member(number, row, self._next(file, row), state) for number, row in members]

    def _checked(self, members: "_Members") -> "_Members":
        """The members of a key, those hashed that are not known to be sound in the state before they were read."""
        for number, row, data, state in members:
            is_known = self.sound.knows(state, number) and self.sound.state(row.shard) is state
            if is_known and len(data) == row.size:
                continue
            if len(data) != row.size or hashlib.sha256(data).hexdigest() != row.sha256:
                where, place = self._tars.where(row.shard), f"{row.suffix}, byte {row.offset}"
                raise ShardError(f"shard {where} is damaged at key {row.key!r} ({place}); write it again")
            self.sound.add(state, number)
        return members

    def _bytes(self, row: IndexRow) -> bytes:
        try:
            return self._tars.read(row.shard, offset=row.offset, size=row.size)
        except OSError as error:
            raise self._unreadable(row.shard, error) from None

    def _next(self, file: BinaryIO, row: IndexRow) -> bytes:
        try:
            file.seek(row.offset)
            return file.read(row.size)
        except OSError as error:
            raise self._unreadable(row.shard, error) from None

    def _unreadable(self, shard: str, error: OSError) -> ShardError:
        return ShardError(f"shard {self._tars.where(shard)} cannot be read ({error}); write the shards again")


class _Member(NamedTuple):
    number: int
    row: IndexRow
    data: bytes
    state: ShardState
    """That of its shard before it was read."""


_Members = list[_Member]
"""All of a key."""


def _by_suffix(members: _Members) -> dict[str, bytes]:
    return {one.row.suffix: one.data for one in members}


def _num_bytes(members: _Members) -> int:
    return sum(len(one.data) for one in members)


def _index_rows(index: pa.Table) -> Iterator[IndexRow]:
    for batch in index.to_batches(max_chunksize=_ROWS_AT_ONCE):
        yield from map(IndexRow, *(column.to_pylist() for column in batch.columns))


def _check_modes(verify: str, on_damage: str) -> None:
    for value, known in ((verify, get_args(Verify)), (on_damage, get_args(OnDamage))):
        if value not in known:
            raise ValueError(f"expected one of {', '.join(known)}, got {value!r}")
    if on_damage == "quarantine" and verify == "background":
        raise ValueError("quarantine must know all damage before the first read; use verify='full' or 'size' with it")
