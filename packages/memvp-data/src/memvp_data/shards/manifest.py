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
from typing import Any

import pyarrow as pa

from memvp_data.files.atomic import remove_leftovers, sync_folder
from memvp_data.files.storage import Folder, ShardError
from memvp_data.shards.index import check_index_rows, load_index, write_index
from memvp_data.shards.layout import IndexRow, ShardEntry

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
PART_SUFFIX = ".part.json"
MAX_MANIFEST_BYTES = 64 << 20
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.tar")


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
    def load(cls, folder: Path | str | Folder) -> "Manifest":
        """Read and check `manifest.json`. Raises `ShardError` if it is missing, damaged or of another version."""
        folder = Folder.at(folder)
        path = folder.where(MANIFEST_NAME)
        try:
            content = json.loads(_read_manifest(folder))
            version, digest = content["schema_version"], content.pop("digest")
            sound = version == SCHEMA_VERSION and digest == _digest(content)
            content["shards"] = tuple(ShardEntry(**shard) for shard in content["shards"])
            manifest = cls(**content)
        except ShardError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ShardError(f"{path} is not a manifest of shards ({error!r}); write the shards again") from None
        if version != SCHEMA_VERSION:
            raise ShardError(f"{path} has schema version {version!r}, this code reads {SCHEMA_VERSION}; write it again")
        if not sound:
            raise ShardError(f"{path} is damaged: its digest does not match its content; write the shards again")
        if not isinstance(manifest.meta, dict) or not all(
            isinstance(v, str) for v in (manifest.kind, manifest.index_sha256)
        ):
            raise ShardError(
                f"{path} is not a manifest of shards (its kind, meta or hash is none); write the shards again"
            )
        _check_entries(manifest.shards)
        return manifest

    def to_json(self) -> str:
        """The content of `manifest.json`."""
        return json.dumps({**asdict(self), "digest": self.digest}, indent=1, sort_keys=True) + "\n"


def write_manifest(
    folder: Path | str | Folder,
    *,
    kind: str,
    shards: Sequence[ShardEntry],
    rows: Iterable[IndexRow],
    meta: dict[str, Any] | None = None,
    tars: Folder | None = None,
) -> Manifest:
    """Commit shards: index first, then old and half-written files are removed, then the manifest is written.

    The shards lie in `folder`, or in `tars`, where nothing is touched. Call it once, when no writer is at work in
    the folder. Raises `ShardError` if entries, rows and files differ.
    """
    folder, shards, rows = Folder.at(folder), tuple(shards), list(rows)
    _check_entries(shards)
    check_index_rows(shards, rows=rows)
    sizes, sizes_there = folder.sizes(), (tars or folder).sizes()
    for shard in shards:
        if sizes_there.get(shard.name) != shard.num_bytes:
            where = (tars or folder).where(shard.name)
            raise ShardError(f"shard {where} is missing or has another length; write it again")
    # Values that JSON would change (tuples, integer keys) must not make a loaded manifest differ from this one.
    manifest = Manifest(kind, shards, write_index(folder, rows), json.loads(json.dumps(meta or {})))
    kept = {shard.name for shard in shards}
    old = [name for name in sizes if name.endswith(".tar") and name.startswith(f"{kind}-") and name not in kept]
    _remove(folder, old if tars is None else ())
    with folder.write(MANIFEST_NAME) as file:
        file.write(manifest.to_json().encode())
    # Not before: until the manifest stands, a killed job goes on from these notes.
    _remove(folder, [name for name in sizes if name.endswith(PART_SUFFIX)])
    return manifest


def read_index(folder: Path | str | Folder, *, manifest: Manifest) -> pa.Table:
    """The index of a folder, checked against its manifest; columns of `INDEX_SCHEMA`."""
    return load_index(Folder.at(folder), sha256=manifest.index_sha256, shards=manifest.shards)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_manifest(folder: Folder) -> bytes:
    try:
        data = folder.read(MANIFEST_NAME, size=MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(
            f"{folder} has no {MANIFEST_NAME}: it was not finished; run the step that writes it again"
        ) from None
    except OSError as error:
        raise ShardError(f"{folder.where(MANIFEST_NAME)} cannot be read ({error}); check its place") from None
    if len(data) > MAX_MANIFEST_BYTES:
        raise ShardError(f"{folder.where(MANIFEST_NAME)} is over {MAX_MANIFEST_BYTES:,} bytes; no manifest is")
    return data


def _check_entries(shards: Iterable[ShardEntry]) -> None:
    seen = set[str]()
    for shard in shards:
        if not isinstance(shard.name, str) or not SHARD_NAME.fullmatch(shard.name):
            raise ShardError(f"shard name {shard.name!r} must be a plain file name such as 'images-00000.tar'")
        if shard.name in seen:
            raise ShardError(f"shard {shard.name} is listed twice; list each shard once")
        if not all(isinstance(number, int) and number >= 0 for number in (shard.num_bytes, shard.num_samples)):
            raise ShardError(f"shard {shard.name} has lengths that are no counts; write the shards again")
        seen.add(shard.name)


def _remove(folder: Folder, names: Iterable[str]) -> None:
    """Remove files, and what killed writers left behind."""
    for name in names:
        folder.remove(name)
    if folder.local is not None:
        remove_leftovers(folder.local)
        sync_folder(folder.local)
