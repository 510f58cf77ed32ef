"""What a folder of shards holds: `manifest.json` (its shards, their hashes and what they mean) and `index.parquet`.

The manifest is the commit point: it is written last, carries its own digest and the hash of the index, and is checked
in full whenever it is loaded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from memvp_data.atomic import atomic_write, remove_leftovers, sync_folder

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"
PART_SUFFIX = ".part.json"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.tar")
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


class ShardError(ValueError):
    """A shard, index or manifest is missing, damaged or does not hold what is asked of it."""


class IndexRow(NamedTuple):
    """Where one member lies. `offset` is that of its first payload byte in the shard."""

    key: str
    shard: str
    suffix: str
    offset: int
    size: int
    sha256: str


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


@dataclass(frozen=True)
class Manifest:
    """The content of a folder of shards."""

    kind: str
    """What the shards hold: "images", "features", ..."""
    shards: tuple[ShardEntry, ...]
    """The shards in order."""
    index_sha256: str
    """Hash of `index.parquet`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """How the content was made; JSON values."""
    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""

    @property
    def digest(self) -> str:
        """Hash of everything above: two folders with equal digests hold equal bytes."""
        return _digest(asdict(self))

    @property
    def num_samples(self) -> int:
        """Number of keys in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @classmethod
    def load(cls, folder: Path | str) -> "Manifest":
        """Read and check `manifest.json`. Raises `ShardError` if it is missing, damaged or of another version."""
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise ShardError(f"{folder} has no {MANIFEST_NAME}: it was not finished; run the step that writes it again")
        try:
            content = json.loads(path.read_bytes())
            version, digest = content["schema_version"], content.pop("digest")
            sound = version == SCHEMA_VERSION and digest == _digest(content)
            content["shards"] = tuple(ShardEntry(**shard) for shard in content["shards"])
            manifest = cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ShardError(f"{path} is not a manifest of shards ({error!r}); write the shards again") from None
        if version != SCHEMA_VERSION:
            raise ShardError(f"{path} has schema version {version!r}, this code reads {SCHEMA_VERSION}; write it again")
        if not sound:
            raise ShardError(f"{path} is damaged: its digest does not match its content; write the shards again")
        _check_names(manifest.shards)
        return manifest

    def to_json(self) -> str:
        """The content of `manifest.json`."""
        return json.dumps({**asdict(self), "digest": self.digest}, indent=1, sort_keys=True) + "\n"


def write_manifest(
    folder: Path | str,
    *,
    kind: str,
    shards: Sequence[ShardEntry],
    rows: Iterable[IndexRow],
    meta: dict[str, Any] | None = None,
) -> Manifest:
    """Commit shards that lie in `folder`: index first, then old and half-written files are removed, then the manifest.

    Call it once, when no writer is at work in the folder. Raises `ShardError` if entries, rows and files differ.
    """
    folder, shards, rows = Path(folder), tuple(shards), list(rows)
    _check_names(shards)
    _check_rows(shards, rows=rows)
    for shard in shards:
        if not (folder / shard.name).is_file() or (folder / shard.name).stat().st_size != shard.num_bytes:
            raise ShardError(f"shard {folder / shard.name} is missing or has another length; write it again")
    # Values that JSON would change (tuples, integer keys) must not make a loaded manifest differ from this one.
    manifest = Manifest(kind, shards, _write_index(folder / INDEX_NAME, rows), json.loads(json.dumps(meta or {})))
    _clear(folder, kind=kind, keep={shard.name for shard in shards})
    with atomic_write(folder / MANIFEST_NAME) as file:
        file.write(manifest.to_json().encode())
    # Not before: until the manifest stands, a killed job goes on from these notes.
    for path in folder.glob(f"*{PART_SUFFIX}"):
        path.unlink()
    return manifest


def read_index(folder: Path | str, *, manifest: Manifest) -> pa.Table:
    """The index of a folder, checked against its manifest; columns of `INDEX_SCHEMA`."""
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise ShardError(f"{path} is missing; write the shards again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise ShardError(f"{path} is damaged: its hash is not the manifest's; write the shards again")
    return pq.read_table(pa.BufferReader(data), schema=INDEX_SCHEMA)


def hash_file(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_names(shards: Iterable[ShardEntry]) -> None:
    seen = set[str]()
    for shard in shards:
        if not SHARD_NAME.fullmatch(shard.name):
            raise ShardError(f"shard name {shard.name!r} must be a plain file name such as 'images-00000.tar'")
        if shard.name in seen:
            raise ShardError(f"shard {shard.name} is listed twice; list each shard once")
        seen.add(shard.name)


def _check_rows(shards: Iterable[ShardEntry], *, rows: Iterable[IndexRow]) -> None:
    shard_of_key, seen = dict[str, str](), set[tuple[str, str]]()
    for row in rows:
        if shard_of_key.setdefault(row.key, row.shard) != row.shard or (row.key, row.suffix) in seen:
            raise ShardError(f"key {row.key!r} is in {shard_of_key[row.key]} and again in {row.shard}; use a key once")
        seen.add((row.key, row.suffix))
    counts = dict[str, int]()
    for name in shard_of_key.values():
        counts[name] = counts.get(name, 0) + 1
    expected = {shard.name: shard.num_samples for shard in shards if shard.num_samples}
    if counts != expected:
        raise ShardError(f"the index has samples per shard {counts}, the shards have {expected}; write them again")


def _write_index(path: Path, rows: list[IndexRow]) -> str:
    columns = zip(*rows, strict=True) if rows else ([] for _ in INDEX_SCHEMA.names)
    arrays = [pa.array(list(column), type=kind.type) for column, kind in zip(columns, INDEX_SCHEMA, strict=True)]
    with atomic_write(path) as file:
        pq.write_table(pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA), file, compression="zstd")
    return hash_file(path)


def _clear(folder: Path, *, kind: str, keep: set[str]) -> None:
    for path in folder.glob(f"{kind}-*.tar"):
        if path.name not in keep:
            path.unlink()
    remove_leftovers(folder)
    sync_folder(folder)
