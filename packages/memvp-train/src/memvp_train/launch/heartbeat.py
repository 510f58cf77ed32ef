"""Signs of life of training workers: each writes where it is into a small file, and the driver sees who stands still.

A stopped process, a loader that never returns and a peer that waits for either look the same from outside: no step is
begun any more. Files on the run's own storage reach the driver from every node; what is compared is whether they change
by the driver's own clock, so clocks need not agree.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import psutil

T = TypeVar("T")
Beat = Callable[[int, Sequence[str]], None]
"""Called with the number of the step (from 0) that begins, and the ids of its samples once they are there."""


@dataclass(frozen=True)
class Heartbeat:
    """Where a worker is."""

    rank: int
    """Rank in its group."""
    pid: int
    """Its process."""
    started: float
    """When that process began; a later process may get the same number."""
    node: str
    """Ray's id of the machine."""
    step: int | None = None
    """Step it has begun, from 1; none while models are built."""
    samples: tuple[str, ...] = ()
    """Ids of the samples of that step on this rank, once they are loaded."""
    number: int = 0
    """Signs that this process has given: one that is like the last is a sign nevertheless."""


class HeartbeatWriter:
    """Writes the signs of one worker."""

    def __init__(self, folder: Path, *, rank: int, node: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank-{rank:05d}.json"
        self._sign = Heartbeat(rank, os.getpid(), psutil.Process().create_time(), node)
        self._longest = 0
        self._path.write_bytes(b"")
        self._write(self._sign)

    def beat(self, step: int, samples: Sequence[str] = ()) -> None:
        """This worker begins step `step` (from 0), or has its samples."""
        number = self._sign.number + 1
        self._sign = replace(self._sign, step=step + 1, samples=tuple(samples), number=number)
        self._write(self._sign)

    def stop(self) -> None:
        """This worker is done and need not be watched any more."""
        self._path.unlink(missing_ok=True)

    def _write(self, sign: Heartbeat) -> None:
        # Neither synced nor renamed: it is read while it is written, and half a sign counts as none. Nor emptied first,
        # which would make ext4 write it out at once, every step; blanks cover what a longer sign left.
        body = json.dumps(vars(sign)).encode()
        self._longest = max(self._longest, len(body))
        with open(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.write(body.ljust(self._longest))


class _Batches(Protocol):
    def at(self, step: int, /) -> list[Any]: ...


class BeatingBatches:
    """The same batches; each request is a sign of life."""

    def __init__(self, batches: _Batches, *, beat: Beat) -> None:
        self._batches, self._beat, self._step = batches, beat, 0

    def at(self, step: int) -> list[Any]:
        self._step = step
        self._beat(step, ())
        made = self._batches.at(step)
        self._beat(step, [name for batch in made for name in batch.sample_ids])
        return made

    def watched(self, items: Iterable[T]) -> Iterable[T]:
        """The same items as often as they are asked for, each a sign of life: for a validation within a step."""
        return _Watched(items, lambda: self._beat(self._step, ()))


class _Watched(Generic[T]):
    def __init__(self, items: Iterable[T], tell: Callable[[], None]) -> None:
        self._items, self._tell = items, tell

    def __iter__(self) -> Iterator[T]:
        for item in self._items:
            self._tell()
            yield item


def read_heartbeats(folder: Path) -> list[Heartbeat]:
    """The last sign of every worker that is at work, by rank."""
    signs = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            values = json.loads(path.read_bytes())
            signs.append(Heartbeat(**{**values, "samples": tuple(values["samples"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return signs


class StillWatch:
    """Tells which workers have given the same sign for too long."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[int, tuple[Heartbeat, float]] = {}

    def still(self, signs: Iterable[Heartbeat], *, now: float) -> list[Heartbeat]:
        """Those that have not moved for `seconds` up to `now`, each told once; not while models are built."""
        found = []
        for sign in signs:
            known, since = self._since.get(sign.rank, (None, now))
            if sign != known:
                self._since[sign.rank] = (sign, now)
            elif sign.step is not None and now - since >= self._seconds:
                self._since[sign.rank] = (sign, float("inf"))
                found.append(sign)
        return found


def kill_process(pid: int, started: float) -> bool:
    """SIGKILL a process of this machine with all below it; False if it is gone and its number means another one."""
    try:
        process = psutil.Process(pid)
        if process.create_time() != started:
            return False
        for each in (*process.children(recursive=True), process):
            each.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def where(signs: Sequence[Heartbeat], *, num_samples: int = 8) -> str:
    """The latest step that was begun and its samples, for a sentence: "step 57 (samples a, b)"."""
    step = max((sign.step or 0 for sign in signs), default=0)
    if not step:
        return "the start, before any step"
    names = [name for sign in signs if sign.step == step for name in sign.samples]
    more = f" and {len(names) - num_samples} more" if len(names) > num_samples else ""
    return f"step {step}" + (f" (samples {', '.join(names[:num_samples])}{more})" if names else "")
