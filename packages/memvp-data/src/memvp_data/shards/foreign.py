"""Read webdataset tars that others wrote, such as img2dataset's: an index and a manifest are made for them once.

The tars stay as they are and where they are. Keys follow webdataset's rule (a name up to its first dot); names that
are no ids are mapped by `to_id`. Whatever would be a risk stops it and is named: pickled members, links and devices,
keys that come twice, compressed or cut tars.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from memvp_data.files.storage import Folder, ShardError
from memvp_data.ids import ID_PATTERN, to_id
from memvp_data.shards.layout import SUFFIXES, IndexRow, ShardEntry
from memvp_data.shards.manifest import MANIFEST_NAME, Manifest, write_manifest
from memvp_data.shards.tar import Member, walk
from memvp_data.shards.verification import FOREIGN
from memvp_data.shards.write import begin

# webdataset's own rule for what a member's name says.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_BLOCK = 1 << 20


def index_tars(
    tars: Path | str,
    *,
    into: Path | str | None = None,
    kind: str = "images",
    skip_suffixes: tuple[str, ...] = (),
) -> Manifest:
    """Make manifest and index of every `*.tar` in a folder, beside them or in another folder, `into`.

    Members of suffixes that a reader does not serve are refused, unless `skip_suffixes` names them ("cls", ...): those
    are left out and counted in the manifest's meta. `ShardReader(into, shards=tars)` reads what lies apart.
    """
    source = Folder.at(tars)
    names = sorted(name for name in source.sizes() if name.endswith(".tar"))
    if not names:
        raise ShardError(f"there is no *.tar in {source}; name the folder that holds them")
    place, skipped = Folder.at(tars if into is None else into), Counter[str]()
    _check_free(place, source=source)
    parts = [_indexed(source, name, skip=skip_suffixes, skipped=skipped) for name in names]
    rows = [row for _, shard_rows in parts for row in shard_rows]
    meta = {FOREIGN: True, "skipped_members": dict(sorted(skipped.items()))}
    return write_manifest(
        begin(place), kind=kind, shards=[entry for entry, _ in parts], rows=rows, meta=meta, tars=source
    )


def _check_free(place: Folder, *, source: Folder) -> None:
    """Shards of our own must not lose their manifest to that of tars."""
    sizes = place.sizes()
    if place.path != source.path and any(name.endswith(".tar") for name in sizes):
        raise ShardError(f"{place} holds tars of its own; name an empty folder for the index of {source}")
    if MANIFEST_NAME in sizes and not Manifest.load(place).meta.get(FOREIGN):
        raise ShardError(f"{place} has a {MANIFEST_NAME} that was written with its shards; it needs no other index")


class _Forward:
    """A file that is hashed while it is read; seeking reads what lies between."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.place = file, hashlib.sha256(), 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.file.read(size)
        self.hash.update(data)
        self.place += len(data)
        return data

    def seek(self, place: int, /) -> None:
        if place < self.place:
            raise ShardError(f"a tar must be read forwards, from byte {self.place} it went back to {place}")
        while place > self.place and self.read(min(_BLOCK, place - self.place)):
            pass


def _indexed(
    source: Folder, name: str, *, skip: tuple[str, ...], skipped: Counter[str]
) -> tuple[ShardEntry, list[IndexRow]]:
    where, num_bytes = source.where(name), source.sizes()[name]
    with source.open(name) as opened:
        file = _Forward(opened)
        rows = list(_rows(file, num_bytes=num_bytes, shard=name, where=where, skip=skip, skipped=skipped))
        file.seek(num_bytes)
    if file.place != num_bytes:
        raise ShardError(f"shard {where} has {file.place} bytes instead of {num_bytes}; is it still being written?")
    return ShardEntry(name, file.hash.hexdigest(), num_bytes, len({row.key for row in rows})), rows


def _rows(
    file: _Forward, *, num_bytes: int, shard: str, where: str, skip: tuple[str, ...], skipped: Counter[str]
) -> Iterator[IndexRow]:
    done, current = set[str](), ("", set[str]())
    for member in walk(file, num_bytes=num_bytes, where=where):
        key, suffix = _key_and_suffix(member, where=where)
        if not key or suffix in skip:
            skipped[suffix] += 1
            continue
        if suffix not in SUFFIXES:
            raise ShardError(_odd_suffix(member, suffix, where=where))
        if key != current[0]:
            done.add(current[0])
            current = (key, set())
        if key in done or suffix in current[1]:
            raise ShardError(f"shard {where} has key {key!r} twice, again at byte {member.offset}; leave it out")
        current[1].add(suffix)
        row = IndexRow("", shard, suffix, member.offset, member.size, _hash(file, member))
        yield row.under(key)


def _key_and_suffix(member: Member, *, where: str) -> tuple[str, str]:
    """("", "") for what webdataset passes over: names without a suffix, and its own `__x__`."""
    match = _NAME.fullmatch(member.name)
    if match is None or re.fullmatch(r"__[^/]*__", match[1].rsplit("/", 1)[-1]):
        return "", ""
    name, suffix = match[1], match[2].lower()
    if name.startswith("/") or ".." in member.name.split("/") or "\\" in name:
        raise ShardError(f"shard {where} has at byte {member.offset} the name {member.name!r}, a way out; leave it out")
    if ID_PATTERN.fullmatch(name):
        return name, suffix
    try:
        return to_id(name), suffix
    except ValueError as error:
        raise ShardError(f"shard {where} has at byte {member.offset} a name that is no id ({error})") from None


def _odd_suffix(member: Member, suffix: str, *, where: str) -> str:
    served = ", ".join(sorted(SUFFIXES))
    return (
        f"shard {where} has at byte {member.offset} {member.name!r}: suffix {suffix!r} is not one of {served} (a "
        "name is cut at its first dot); name the suffix in skip_suffixes to do without it"
    )


def _hash(file: _Forward, member: Member) -> str:
    file.seek(member.offset)
    found, left = hashlib.sha256(), member.size
    while left and (block := file.read(min(_BLOCK, left))):
        found.update(block)
        left -= len(block)
    return found.hexdigest()
