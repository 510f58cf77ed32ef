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

import pyarrow as pa
import pyarrow.compute as pc

from memvp_data.atomic import atomic_write
from memvp_data.manifest import (
    INDEX_SCHEMA,
    MANIFEST_NAME,
    PART_SUFFIX,
    SHARD_NAME,
    IndexRow,
    Manifest,
    ShardEntry,
    ShardError,
    hash_file,
    read_index,
    write_manifest,
)
from memvp_data.samples import ID_PATTERN

__all__ = [
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
# Nothing that a reader would have to unpickle.
SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "safetensors", "json", "txt"})


def write_shard(path: Path | str, records: Iterable[Record]) -> tuple[ShardEntry, list[IndexRow]]:
    """Write one tar of (key, {suffix: bytes}) records and say where everything lies.

    Keys must come in ascending order, so that equal content gives equal bytes whoever collected it. Nothing of the
    final name exists until all is written and synced.
    """
    path = Path(path)
    if not SHARD_NAME.fullmatch(path.name):
        raise ShardError(f"shard name {path.name!r} must look like 'images-00000.tar'")
    with atomic_write(path) as file:
        hashing = _HashingFile(file)
        # GNU format, as USTAR has no room for our longest keys. tarfile only ever calls write() and tell().
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
            rows = [row for record in _ascending(records) for row in _add(tar, record, shard=path.name)]
        num_bytes = hashing.tell()
    entry = ShardEntry(path.name, hashing.hash.hexdigest(), num_bytes, len({row.key for row in rows}))
    return entry, rows


def write_shards(
    folder: Path | str,
    records: Iterable[Record],
    *,
    kind: str,
    max_shard_samples: int = 1000,
    max_shard_bytes: int = 256 << 20,
    meta: dict[str, Any] | None = None,
) -> Manifest:
    """Write records (ascending keys) as `<kind>-00000.tar`, ... and commit them. About one shard is held in memory.

    A manifest that is already there is taken away first: the folder counts as unfinished until the new one is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    groups = _grouped(_ascending(records), max_samples=max_shard_samples, max_bytes=max_shard_bytes)
    parts = [write_shard(folder / f"{kind}-{number:05d}.tar", group) for number, group in enumerate(groups)]
    rows = [row for _, shard_rows in parts for row in shard_rows]
    return write_manifest(folder, kind=kind, shards=[entry for entry, _ in parts], rows=rows, meta=meta)


def save_part(path: Path | str, *, entry: ShardEntry, rows: Sequence[IndexRow]) -> None:
    """Remember what `write_shard` returned beside the shard, so that a job killed before its manifest can go on.

    `write_manifest` removes the note.
    """
    with atomic_write(_part_path(path)) as file:
        file.write(json.dumps({"entry": asdict(entry), "rows": rows}).encode())


def load_part(path: Path | str) -> tuple[ShardEntry, list[IndexRow]] | None:
    """What `save_part` noted for this shard, or None unless note and shard are there and the shard has its hash."""
    try:
        content = json.loads(_part_path(path).read_bytes())
        entry, rows = ShardEntry(**content["entry"]), [IndexRow(*row) for row in content["rows"]]
        return (entry, rows) if hash_file(Path(path)) == entry.sha256 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def verify(folder: Path | str, *, full: bool = True) -> list[str]:
    """One line per fault of a folder of shards, [] if it is sound. `full` hashes every byte, else lengths only."""
    folder = Path(folder)
    try:
        manifest = Manifest.load(folder)
    except ShardError as error:
        return [str(error)]
    faults, index = list[str](), INDEX_SCHEMA.empty_table()
    try:
        index = read_index(folder, manifest=manifest)
    except ShardError as error:
        faults.append(str(error))
    for entry in manifest.shards:
        faults.extend(_shard_faults(folder / entry.name, entry=entry, index=index, full=full))
    listed = {entry.name for entry in manifest.shards}
    extra = sorted(path.name for path in folder.glob("*.tar") if path.name not in listed)
    return faults + [f"shard {folder / name} is not in {MANIFEST_NAME}; take it out of the folder" for name in extra]


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
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size, info.mode = len(data), 0o644  # owner and time stay 0: they would change the bytes
        tar.addfile(info, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        yield IndexRow(key, shard, suffix, tar.offset - padded, len(data), hashlib.sha256(data).hexdigest())


def _ascending(records: Iterable[Record]) -> Iterator[Record]:
    previous = ""
    for key, members in records:
        if not ID_PATTERN.fullmatch(key):
            raise ShardError(f"key {key!r} is not 1 to 128 of the characters A-Z a-z 0-9 _ - (map names with to_id)")
        if key <= previous:
            raise ShardError(f"key {key!r} comes after {previous!r}; pass each key once, in ascending order")
        previous = key
        yield key, members


def _grouped(records: Iterator[Record], *, max_samples: int, max_bytes: int) -> Iterator[list[Record]]:
    group, num_bytes = list[Record](), 0
    for key, members in records:
        size = sum(map(len, members.values()))
        if group and (len(group) == max_samples or num_bytes + size > max_bytes):
            yield group
            group, num_bytes = [], 0
        group.append((key, members))
        num_bytes += size
    if group:
        yield group


def _part_path(path: Path | str) -> Path:
    return Path(f"{path}{PART_SUFFIX}")


def _shard_faults(path: Path, *, entry: ShardEntry, index: pa.Table, full: bool) -> list[str]:
    if not path.is_file():
        return [f"shard {path} is missing; write the shards again"]
    num_bytes = path.stat().st_size
    if num_bytes != entry.num_bytes:
        return [f"shard {path} has {num_bytes} bytes instead of {entry.num_bytes}; write it again"]
    if not full or hash_file(path) == entry.sha256:
        return []
    rows = [IndexRow(**row) for row in index.filter(pc.field("shard") == entry.name).to_pylist()]
    with path.open("rb") as file:
        damaged = [row for row in rows if not _is_sound(file, row=row)]
    lines = [f"shard {path} is damaged at key {row.key!r} ({row.suffix}, byte {row.offset})" for row in damaged]
    return [f"{line}; write it again" for line in lines or [f"shard {path} is damaged between its members"]]


def _is_sound(file: BinaryIO, *, row: IndexRow) -> bool:
    file.seek(row.offset)
    return hashlib.sha256(file.read(row.size)).hexdigest() == row.sha256
