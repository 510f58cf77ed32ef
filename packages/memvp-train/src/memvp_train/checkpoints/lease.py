"""One writer per folder, on any shared file system: a lease with an owner, a sign of life and a fencing number.

Every launch takes the next number by creating `.lease-<number>.json`, which only one process can do. The owner touches
its file every few seconds; one that has not done so for a while, or whose process is gone from this machine, is
replaced by whoever takes the next number. From then on the old owner's `check` fails, so it cannot commit any more,
even if it was only stopped and wakes up later. Ages are differences of the file server's own times: clocks of different
machines need not agree.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, NoReturn

import psutil

EXPIRES_SECONDS = 120.0
_BEATS_PER_EXPIRY = 8


class LeaseError(ValueError):
    """Another process is the writer of this folder."""


@dataclass(frozen=True)
class Lease:
    """The right to write a folder. Plain data: workers on other machines get a copy and check it there."""

    folder: str
    """Folder that is written."""
    number: int
    """Fencing number; the owner of a higher one has taken over."""

    def check(self) -> None:
        """Raise `LeaseError` if another process has taken the folder over."""
        successor = _path(self.folder, number=self.number + 1)
        if successor.exists() or not _path(self.folder, number=self.number).exists():
            raise LeaseError(
                f"{self.folder} was taken over by another job ({_owner(_newest(Path(self.folder)))}) "
                "while this one gave no sign of life; this one stops and leaves the folder to it"
            )


@contextmanager
def hold_lease(folder: Path, *, doing: str, expires_seconds: float = EXPIRES_SECONDS) -> Iterator[Lease]:
    """Be the one writer of `folder`, which must exist, while the block runs.

    Raises `LeaseError` if another process is: "another job is `doing` `folder`", who it is, and when it was last seen.
    """
    lease = _take(folder, doing=doing, expires_seconds=expires_seconds)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(lease, stop, expires_seconds / _BEATS_PER_EXPIRY), daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        stop.set()
        beat.join()
        _release(lease)


def _take(folder: Path, *, doing: str, expires_seconds: float) -> Lease:
    newest = _newest(folder)
    if newest is not None and not _is_free(newest, expires_seconds=expires_seconds):
        _refuse(newest, folder=folder, doing=doing, expires_seconds=expires_seconds)
    number = 1 if newest is None else _number(newest) + 1
    path = _path(folder, number=number)
    try:
        _claim(path)
    except FileExistsError:
        _refuse(path, folder=folder, doing=doing, expires_seconds=expires_seconds)
    for old in _claims(folder)[:-2]:  # two stay: whoever lists the folder meanwhile finds at least one
        old.unlink(missing_ok=True)
    return Lease(str(folder), number)


def _claim(path: Path) -> None:
    """Put our claim at `path`, whole or not at all; FileExistsError if another process was first."""
    written = path.with_name(f".claim-{token_hex(8)}")
    _write_new(written)
    try:
        # An exclusive name is the one thing that a network file system, too, lets exactly one process win.
        os.link(written, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        _write_new(path)
    finally:
        written.unlink(missing_ok=True)


def _write_new(path: Path) -> None:
    """Our identity into a file that must not exist yet; nothing stays of a failed write (a full disk)."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(_identity()).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _refuse(path: Path, *, folder: Path, doing: str, expires_seconds: float) -> NoReturn:
    raise LeaseError(
        f"another job is {doing} {folder} ({_owner(path)}, last seen {_age(path):.0f} s ago); wait for it or use "
        f"another folder; it counts as dead after {expires_seconds:g} s without a sign of life"
    )


def _beat(lease: Lease, stop: threading.Event, seconds: float) -> None:
    path = _path(lease.folder, number=lease.number)
    while not stop.wait(seconds):
        try:
            os.utime(path)
        except OSError:
            continue  # a file server may come back; one that took the lease away does not change what `check` says


def _release(lease: Lease) -> None:
    """Leave the number behind, so that the next one is higher, marked as free."""
    path = _path(lease.folder, number=lease.number)
    try:
        with path.open("r+b") as file:  # not made again where a successor has cleared it away
            file.write(json.dumps({**_identity(), "released": True}).encode())
            file.truncate()  # only what is left of a longer claim: a failed write leaves the old one readable
    except OSError:
        return  # the folder is gone or full: the lease expires by itself


def _is_free(path: Path, *, expires_seconds: float) -> bool:
    claim = _read(path)
    return bool(claim.get("released")) or _is_dead(claim) or _age(path) > expires_seconds


def _is_dead(claim: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine and its process is gone."""
    here = _identity()
    if any(claim.get(key) != here[key] for key in ("host", "processes")):
        return False
    try:
        return psutil.Process(int(claim["pid"])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError, KeyError):
        return False


def _identity() -> dict[str, Any]:
    """Who holds it. Two containers of one host may share its name but not its process numbers."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "processes": processes, "since": since}


def _owner(path: Path | None) -> str:
    claim = {} if path is None else _read(path)
    if "pid" not in claim:
        return "owner unknown"
    return f"pid {claim['pid']} on {claim['host']} since {claim['since']}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _age(path: Path) -> float:
    """Seconds since the last sign of life, measured by the file server: it dates both files."""
    probe = path.with_name(f".now-{token_hex(8)}")
    try:
        probe.touch()
        # Opening a file makes a network file system ask the server for its newest times.
        with path.open("rb") as file:
            return max(0.0, probe.stat().st_mtime - os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _path(folder: str | Path, *, number: int) -> Path:
    return Path(folder) / f".lease-{number:06d}.json"


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _claims(folder: Path) -> list[Path]:
    return sorted(folder.glob(".lease-*.json"), key=_number)


def _newest(folder: Path) -> Path | None:
    claims = _claims(folder)
    return claims[-1] if claims else None
