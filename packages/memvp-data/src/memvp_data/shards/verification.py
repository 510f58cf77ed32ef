"""Hold a folder of shards against its manifest and index, and say of every fault which shard, byte and key it hits.

A length that is right and a hash that is wrong is damage; where it is, the index and the fixed form of our own headers
tell. Of tars that others wrote only the members can be placed.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from memvp_data.files.hashing import hash_stored
from memvp_data.files.storage import Folder, ShardError
from memvp_data.shards.layout import INDEX_NAME, INDEX_SCHEMA, IndexRow, ShardEntry
from memvp_data.shards.manifest import MANIFEST_NAME, Manifest, read_index
from memvp_data.shards.tar import end_of, header_of

FOREIGN = "foreign_tars"
IsSound = Callable[[BinaryIO, IndexRow], bool]


class Fault(NamedTuple):
    """What is wrong."""

    message: str
    """One line, ready to be shown."""
    shard: str | None
    """The shard it hits, None if that is none of the manifest's."""


def verify(folder: Path | str, *, full: bool = True, shards: Path | str | None = None) -> list[str]:
    """One line per fault of a folder of shards, [] if it is sound. `full` hashes every byte, else lengths only.

    `shards` is where the tars lie if not beside their manifest.
    """
    try:
        place = Folder.at(folder)
        manifest = Manifest.load(place)
        tars = Folder.at(shards) if shards is not None else place
    except ShardError as error:
        return [str(error)]
    faults, index = list[str](), INDEX_SCHEMA.empty_table()
    try:
        index = read_index(place, manifest=manifest)
    except ShardError as error:
        faults.append(str(error))
    try:
        faults += [fault.message for fault in find_faults(tars, manifest=manifest, index=index, full=full)]
    except ShardError as error:
        faults.append(str(error))
    return faults


def find_faults(folder: Folder, *, manifest: Manifest, index: pa.Table, full: bool) -> Iterator[Fault]:
    """Faults of the shards in the order of the manifest, then files that are in the folder and should not be."""
    sizes = folder.sizes()
    for entry in manifest.shards:
        messages = length_faults(folder, entry=entry, num_bytes=sizes.get(entry.name))
        if full and not messages:
            messages = hash_faults(folder, entry=entry, index=index, is_ours=not manifest.meta.get(FOREIGN))
        yield from (Fault(message, entry.name) for message in messages)
    listed = {entry.name for entry in manifest.shards}
    for name in sorted(name for name in sizes if name.endswith(".tar") and name not in listed):
        yield Fault(f"shard {folder.where(name)} is not in {MANIFEST_NAME}; take it out of the folder", None)


def length_faults(folder: Folder, *, entry: ShardEntry, num_bytes: int | None) -> list[str]:
    """Whether the shard is there and as long as it should be."""
    if num_bytes is None:
        return [f"shard {folder.where(entry.name)} is missing; write the shards again"]
    if num_bytes != entry.num_bytes:
        return [f"shard {folder.where(entry.name)} has {num_bytes} bytes instead of {entry.num_bytes}; write it again"]
    return []


def hash_faults(folder: Folder, *, entry: ShardEntry, index: pa.Table, is_ours: bool) -> list[str]:
    """Hash a shard of the right length; if its hash is wrong, say where the damage is."""
    try:
        if hash_stored(folder, entry.name) == entry.sha256:
            return []
    except OSError as error:
        return [_unreadable(folder, entry, error)]
    unknown = f"between its members, where nothing is read from; {INDEX_NAME} still fits"
    found = member_faults(folder, entry=entry, index=index, is_ours=is_ours)
    return found or [f"shard {folder.where(entry.name)} is damaged {unknown}; write it again"]


def member_faults(
    folder: Folder, *, entry: ShardEntry, index: pa.Table, is_ours: bool = True, is_known: IsSound | None = None
) -> list[str]:
    """What the hashes of a shard's members say, and, if the shard is ours, all bytes between them.

    `is_known` says of a member whether it is sound, `is_sound` if None.
    """
    rows, where = rows_of(index, shard=entry.name), folder.where(entry.name)
    try:
        with folder.open(entry.name) as file:
            places = list(_damaged_places(file, rows=rows, entry=entry, is_ours=is_ours, is_known=is_known or is_sound))
    except OSError as error:
        return [_unreadable(folder, entry, error)]
    return [f"shard {where} is damaged {place}; write it again" for place in places]


def _unreadable(folder: Folder, entry: ShardEntry, error: OSError) -> str:
    return f"shard {folder.where(entry.name)} cannot be read ({error}); write it again"


def rows_of(index: pa.Table, *, shard: str) -> list[IndexRow]:
    """The members of a shard in the order in which they lie in it, each once."""
    rows = (IndexRow(**row) for row in index.filter(pc.field("shard") == shard).to_pylist())
    return sorted({row.offset: row for row in reversed(list(rows))}.values(), key=lambda row: row.offset)


def is_sound(file: BinaryIO, row: IndexRow) -> bool:
    """Whether the member that the index has there is the one that was written."""
    file.seek(row.offset)
    return hashlib.sha256(file.read(row.size)).hexdigest() == row.sha256


def _damaged_places(
    file: BinaryIO, *, rows: Sequence[IndexRow], entry: ShardEntry, is_ours: bool, is_known: IsSound
) -> Iterator[str]:
    end = 0
    for row in rows:
        if is_ours:
            expected = bytes(end_of(end) - end) + header_of(f"{row.key}.{row.suffix}", size=row.size)
            yield from _difference(
                file, start=end, stop=row.offset, expected=expected, what=f"header of key {row.key!r}"
            )
        if not is_known(file, row):
            yield f"at key {row.key!r} ({row.suffix}, byte {row.offset})"
        end = row.offset + row.size
    if is_ours:
        yield from _difference(file, start=end, stop=entry.num_bytes, expected=None, what="zeros after its last member")


def _difference(file: BinaryIO, *, start: int, stop: int, expected: bytes | None, what: str) -> Iterator[str]:
    """The first byte between start and stop that is not as expected (None: zero)."""
    file.seek(start)
    found = file.read(stop - start)
    expected = bytes(stop - start) if expected is None else expected
    if found != expected:
        same = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        yield f"at byte {start + same} ({what})"
