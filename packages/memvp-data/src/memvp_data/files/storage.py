"""Folders on a disk or in an object store: every file is opened through fsspec, so a URL does where a path does.

Only the schemes of `SCHEMES` are accepted. Lists of shards come from outside, where `pipe:` would start a program and
http would reach into somebody's network.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from memvp_data.files.atomic import atomic_write

SCHEMES = ("abfs", "abfss", "az", "file", "gcs", "gs", "memory", "s3", "s3a")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
Signature = tuple[int, int, int, int]


class ShardError(ValueError):
    """A shard, index, manifest or its place is missing, damaged, refused or does not hold what is asked of it."""


@dataclass(frozen=True)
class Folder:
    """One folder, wherever it is; can be sent to other processes. Names of its files are plain: no `/`, no `..`."""

    filesystem: fsspec.AbstractFileSystem
    """How it is reached."""
    path: str
    """What that filesystem calls it."""
    shown: str
    """What messages call it."""

    @classmethod
    def at(cls, place: "Path | str | Folder") -> "Folder":
        """The folder of a local path or of a URL with one of `SCHEMES`. Nothing is read."""
        if isinstance(place, Folder):
            return place
        scheme = _scheme(place)
        try:
            filesystem, path = fsspec.url_to_fs(str(place)) if scheme else (LocalFileSystem(), str(place))
        except ImportError as error:
            raise ShardError(f"{place} needs a library that is not installed ({error}); install it") from None
        filesystem.invalidate_cache()  # what another process has written since must be seen
        return cls(filesystem, path.rstrip("/") or "/", str(place).rstrip("/") or "/")

    def __str__(self) -> str:
        return self.shown

    @property
    def local(self) -> Path | None:
        """Its path if it is on this machine's disks."""
        return Path(self.path) if isinstance(self.filesystem, LocalFileSystem) else None

    def where(self, name: str) -> str:
        """A file of it as messages call it."""
        return f"{self.shown}/{name}"

    def sizes(self) -> dict[str, int]:
        """The length of every file in it by name, {} if there is no such folder. A link counts as what it leads to."""
        try:
            if self.local is not None:
                return _local_sizes(self.local)
            found = self.filesystem.ls(self.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise ShardError(f"{self} cannot be listed ({error}); check its place and your rights") from None
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in found if entry["type"] == "file"}

    def signature(self, name: str) -> Signature | None:
        """Changes whenever a local file does; None where that cannot be told cheaply."""
        return None if self.local is None else _signature((self.local / name).stat())

    def path_of(self, name: str) -> Path:
        """A file of it on this machine's disks, which is no pipe."""
        self._check_regular(name)
        return Path(self._full(name))

    def open(self, name: str) -> BinaryIO:
        """A file of it for reading."""
        self._check_regular(name)
        return cast(BinaryIO, self.filesystem.open(self._full(name), "rb"))

    def read(self, name: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """Some bytes of a file: one range request in an object store."""
        self._check_regular(name)
        end = None if size is None else offset + size
        return cast(bytes, self.filesystem.cat_file(self._full(name), start=offset, end=end))

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """A file that appears whole when the block ends well, or not at all.

        On a disk: temporary name, sync, rename. Elsewhere the bytes are collected in memory and put as one object,
        which object stores show only once its upload is complete.
        """
        if self.local is not None:
            with atomic_write(self.local / name) as file:
                yield file
            return
        file = BytesIO()
        yield file
        self.filesystem.pipe_file(self._full(name), file.getvalue())

    def remove(self, name: str) -> None:
        """Remove a file of it; none is as well."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self._full(name))

    def _check_regular(self, name: str) -> None:
        """Opening a pipe would wait for a writer that may never come."""
        self._full(name)
        if self.local is None:
            return
        try:
            is_regular = S_ISREG((self.local / name).stat().st_mode)
        except OSError:
            return  # whoever opens it says why it cannot
        if not is_regular:
            raise self._irregular(name)

    def _irregular(self, name: str) -> ShardError:
        return ShardError(f"{self.where(name)} is no regular file and no link to one; put the file itself there")

    def _full(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ShardError(f"{name!r} is not the plain name of a file in {self.shown}; use letters, digits, . _ -")
        return f"{self.path}/{name}"


def _signature(status: os.stat_result) -> Signature:
    # The time of the last change of the inode cannot be set back, as the other can.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _local_sizes(folder: Path) -> dict[str, int]:
    sizes = dict[str, int]()
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # what a writer has renamed meanwhile is not there under this name
            if entry.is_file():
                sizes[entry.name] = entry.stat().st_size
    return sizes


def split_place(place: Path | str) -> tuple[Folder, str]:
    """The folder of a file, and the file's name in it."""
    if isinstance(place, Path):
        return Folder.at(place.parent), place.name
    parent, _, name = place.rpartition("/")
    return Folder.at(parent or "."), name


def _scheme(place: Path | str) -> str:
    match = _SCHEME.match(str(place))
    if match is None:
        return ""
    scheme = match[1].lower()
    if isinstance(place, Path):
        if scheme in SCHEMES:
            raise ShardError(f"{str(place)!r} is a URL made a Path, which spoils it; pass the URL as a string")
        return ""
    if scheme not in SCHEMES or "::" in place or not place[match.end() :].startswith("//"):
        raise ShardError(f"{place!r} is no place for shards; use a local path or {'://, '.join(SCHEMES)}://")
    return scheme
