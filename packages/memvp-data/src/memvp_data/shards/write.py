"""Shards: plain uncompressed tars that any webdataset reader can stream, written atomically and byte for byte the same.

A folder of shards is complete when it holds `manifest.json`, which is written last. Hashes, lengths and counts lie
outside the tars, because a reader of tars does not notice most damage: one that is cut between two members merely
looks shorter.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from memvp_data.files.hashing import hash_file
from memvp_data.files.storage import Folder, ShardError, split_place
from memvp_data.ids import ID_PATTERN
from memvp_data.shards.deduplication import distinct, with_same
from memvp_data.shards.layout import SUFFIXES, IndexRow, ShardEntry
from memvp_data.shards.manifest import MANIFEST_NAME, PART_SUFFIX, SHARD_NAME, Manifest, write_manifest
from memvp_data.shards.tar import end_of, tar_info
from memvp_data.shards.verification import verify

__all__ = [
    "SUFFIXES",
    "IndexRow",
    "Manifest",
    "ShardEntry",
    "ShardError",
    "load_part",
    "save_part",
    "verify",
    "write_manifest",
    "write_shard",
    "write_shards",
]

Record = tuple[str, dict[str, bytes]]
MAX_SHARD_SAMPLES = 1000
MAX_SHARD_BYTES = 256 << 20


def write_shard(path: Path | str, records: Iterable[Record]) -> tuple[ShardEntry, list[IndexRow]]:
    """Write one tar of (key, {suffix: bytes}) records and say where everything lies.

    Keys must come in ascending order, so that equal content gives equal bytes whoever collected it. Nothing of the
    final name exists until all is written and synced.
    """
    folder, name = split_place(path)
    return write_shard_in(folder, name, records)


def write_shard_in(folder: Folder, name: str, records: Iterable[Record]) -> tuple[ShardEntry, list[IndexRow]]:
    """`write_shard` of a file of a folder."""
    if not SHARD_NAME.fullmatch(name):
        raise ShardError(f"shard name {name!r} must look like 'images-00000.tar'")
    with folder.write(name) as file:
        hashing = _HashingFile(file)
        # tarfile only ever calls write() and tell().
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
            rows = [row for record in _ascending(records) for row in _add(tar, record, shard=name)]
        num_bytes = hashing.tell()
    entry = ShardEntry(name, hashing.hash.hexdigest(), num_bytes, len({row.key for row in rows}))
    return entry, rows


def write_shards(
    folder: Path | str,
    records: Iterable[Record],
    *,
    kind: str,
    max_shard_samples: int = MAX_SHARD_SAMPLES,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    meta: dict[str, Any] | None = None,
    dedupe: bool = False,
) -> Manifest:
    """Write records (ascending keys) as `<kind>-00000.tar`, ... and commit them. About one shard is held in memory.

    With `dedupe`, a record whose members equal those of an earlier one is not stored again: the index gives both keys
    the same place, and a reader finds both.

    A manifest that is already there is taken away first: the folder counts as unfinished until the new one is written.
    """
    place, same = begin(folder), dict[str, str]()
    kept = distinct(_ascending(records), same=same) if dedupe else _ascending(records)
    sized = ((record, sum(map(len, record[1].values()))) for record in kept)
    groups = grouped(sized, max_samples=max_shard_samples, max_bytes=max_shard_bytes)
    parts = [write_shard_in(place, shard_name(kind, number), group) for number, group in enumerate(groups)]
    rows = with_same([row for _, shard_rows in parts for row in shard_rows], same=same)
    return write_manifest(place, kind=kind, shards=[entry for entry, _ in parts], rows=rows, meta=meta)


def begin(folder: Path | str | Folder) -> Folder:
    """The folder, made if need be, without a manifest: it is unfinished from now on."""
    place = Folder.at(folder)
    if place.local is not None:
        place.local.mkdir(parents=True, exist_ok=True)
    place.remove(MANIFEST_NAME)
    return place


def shard_name(kind: str, number: int) -> str:
    """`images-00003.tar`."""
    return f"{kind}-{number:05d}.tar"


def grouped(items: Iterable[tuple[Any, int]], *, max_samples: int, max_bytes: int) -> Iterator[list[Any]]:
    """What goes into each shard, in order, from (item, bytes of its members)."""
    group, num_bytes = list[Any](), 0
    for item, size in items:
        if group and (len(group) == max_samples or num_bytes + size > max_bytes):
            yield group
            group, num_bytes = [], 0
        group.append(item)
        num_bytes += size
    if group:
        yield group


def save_part(path: Path | str, *, entry: ShardEntry, rows: Sequence[IndexRow]) -> None:
    """Remember what `write_shard` returned beside the shard, so that a job killed before its manifest can go on.

    `write_manifest` removes the note.
    """
    folder, name = split_place(path)
    with folder.write(f"{name}{PART_SUFFIX}") as file:
        file.write(json.dumps({"entry": asdict(entry), "rows": rows}).encode())


def load_part(path: Path | str) -> tuple[ShardEntry, list[IndexRow]] | None:
    """What `save_part` noted for this shard, or None unless note and shard are there and the shard has its hash."""
    folder, name = split_place(path)
    try:
        content = json.loads(folder.read(f"{name}{PART_SUFFIX}"))
        entry, rows = ShardEntry(**content["entry"]), [IndexRow(*row) for row in content["rows"]]
        return (entry, rows) if hash_file(path) == entry.sha256 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


class _HashingFile(io.RawIOBase):
    """Hashes and counts what is written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.length = file, hashlib.sha256(), 0

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        self.length += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.length


def _add(tar: tarfile.TarFile, record: Record, *, shard: str) -> Iterator[IndexRow]:
    key, members = record
    if not members:
        raise ShardError(f"key {key!r} has no members; give it at least one of {', '.join(sorted(SUFFIXES))}")
    for suffix, data in sorted(members.items()):
        if suffix not in SUFFIXES:
            raise ShardError(f"key {key!r}: suffix {suffix!r} is not one of {', '.join(sorted(SUFFIXES))}")
        tar.addfile(tar_info(f"{key}.{suffix}", size=len(data)), io.BytesIO(data))
        offset = tar.offset - end_of(len(data))
        yield IndexRow("", shard, suffix, offset, len(data), hashlib.sha256(data).hexdigest()).under(key)


def _ascending(records: Iterable[Record]) -> Iterator[Record]:
    previous = ""
    for key, members in records:
        if not ID_PATTERN.fullmatch(key):
            raise ShardError(f"key {key!r} is not 1 to 128 of the characters A-Z a-z 0-9 _ - (map names with to_id)")
        if key <= previous:
            raise ShardError(f"key {key!r} comes after {previous!r}; pass each key once, in ascending order")
        previous = key
        yield key, members
