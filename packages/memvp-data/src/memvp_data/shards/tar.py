"""The tar format as far as shards need it: the headers we write, and a walk over the members of any plain tar.

The walk is strict where Python's tarfile is lenient: that one ends in silence at a damaged header or a cut. Links,
devices, sparse files and compressed tars are refused; nothing is ever unpacked to a disk.
"""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from memvp_data.files.storage import ShardError

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBERS = 1_000_000
MAX_MEMBER_BYTES = 1 << 30
MAX_NAME_BYTES = 1024
_MAX_EXTENSION_BYTES = 64 << 10
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_LONG_NAME, _PAX, _PAX_GLOBAL = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE


class Readable(Protocol):
    """What the walk needs of a file. It never seeks backwards."""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes."""
        ...

    def seek(self, place: int, /) -> object:
        """Go there."""
        ...


class Member(NamedTuple):
    """A regular file in a tar. `offset` is that of its first payload byte."""

    name: str
    offset: int
    size: int


def header_of(name: str, *, size: int) -> bytes:
    """The header of a member as `write_shard` writes it: GNU format, as USTAR has no room for our longest keys."""
    return tar_info(name, size=size).tobuf(tarfile.GNU_FORMAT)


def tar_info(name: str, *, size: int) -> tarfile.TarInfo:
    """Owner and time stay 0: they would change the bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def end_of(offset: int) -> int:
    """The block border at or after a byte."""
    return -(-offset // BLOCK) * BLOCK


def walk(file: Readable, *, num_bytes: int, where: str) -> Iterator[Member]:
    """The regular files of a tar in order. Raises `ShardError` naming `where` and the byte at anything else."""
    offset, name, size, count = 0, None, None, 0
    while True:
        info = _header(file, offset=offset, num_bytes=num_bytes, where=where)
        if info is None:
            return
        start = offset + BLOCK
        length = info.size if size is None or info.type in (_LONG_NAME, _PAX, _PAX_GLOBAL) else size
        if not 0 <= length <= min(MAX_MEMBER_BYTES, num_bytes - start):
            raise _fault(where, offset, f"a member of {length:,} bytes, more than the tar or {MAX_MEMBER_BYTES:,} has")
        if info.type in (_LONG_NAME, _PAX, _PAX_GLOBAL):
            data = _extension(file, start=start, length=length, offset=offset, where=where)
            name, size = _extended(info.type, data, name=name, size=size, offset=offset, where=where)
        elif info.type in _FILES:
            yield Member(_checked_name(name or info.name, offset=offset, where=where), start, length)
            name, size, count = None, None, count + 1
        elif info.type == tarfile.DIRTYPE and not length:
            name, size = None, None
        else:
            raise _fault(where, offset, f"{info.name!r}, of type {info.type!r}: a link, device or other special file")
        if count > MAX_MEMBERS:
            raise _fault(where, offset, f"more than {MAX_MEMBERS:,} members")
        offset = end_of(start + length)


def _header(file: Readable, *, offset: int, num_bytes: int, where: str) -> tarfile.TarInfo | None:
    """The header there, or None at the end of the archive, whose bytes must be zeros up to the end of the file."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise _fault(where, offset, "the end of the file before that of the archive: it was cut")
    if offset == 0 and (block[:2] == b"\x1f\x8b" or block[:4] in (b"(\xb5/\xfd", b"BZh9", b"\xfd7zX")):
        raise ShardError(f"shard {where} is compressed; unpack it to a plain tar, which can be read at any place")
    if any(block):
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise _fault(where, offset, f"no header of a member ({error})") from None
    _check_zeros(file, start=offset + BLOCK, num_bytes=num_bytes, where=where)
    return None


def _check_zeros(file: Readable, *, start: int, num_bytes: int, where: str) -> None:
    if num_bytes - start < BLOCK:
        raise _fault(where, start, "the end of the file before that of the archive: it was cut")
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            raise _fault(where, start, "something after the end of the archive")
        start += len(block)


def _extension(file: Readable, *, start: int, length: int, offset: int, where: str) -> bytes:
    if length > _MAX_EXTENSION_BYTES:
        raise _fault(where, offset, f"an extended header of {length:,} bytes, more than {_MAX_EXTENSION_BYTES:,}")
    file.seek(start)
    return file.read(length)


def _extended(
    kind: bytes, data: bytes, *, name: str | None, size: int | None, offset: int, where: str
) -> tuple[str | None, int | None]:
    """Name and size of the next member as an extended header gives them."""
    if kind == _LONG_NAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), size
    if kind == _PAX_GLOBAL:
        return name, size
    try:
        records = dict(_pax_records(data))
        return records.get("path", name), int(records["size"]) if "size" in records else size
    except ValueError as error:
        raise _fault(where, offset, f"a broken extended header ({error})") from None


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Records of the form `<length> <name>=<value>\\n`, the length counting all of it."""
    while data.strip(b"\0"):
        digits, _, _ = data[:12].partition(b" ")
        length = int(digits)
        record = data[len(digits) + 1 : length - 1]
        if not len(digits) + 2 < length <= len(data) or b"=" not in record:
            raise ValueError(f"record {data[:20]!r}")
        key, _, value = record.partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise ValueError("a sparse file")
        yield key.decode(), value.decode("utf-8", "surrogateescape")
        data = data[length:]


def _checked_name(name: str, *, offset: int, where: str) -> str:
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES or "\0" in name:
        raise _fault(where, offset, f"a name of {len(name)} characters, {name[:40]!r}...")
    return name


def _fault(where: str, offset: int, what: str) -> ShardError:
    return ShardError(f"shard {where} has at byte {offset} {what}; leave it out or write it again as a plain tar")
