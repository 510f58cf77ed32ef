"""When a group of workers is ended: because it stands still, or given up because it gets nowhere. It knows no Ray.

`ending_hangs` runs in the driver, `Restarts` where the failures are heard of, and `Failure` carries a sentence from
whoever knows it to the driver.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from memvp_data.files.atomic import atomic_write
from memvp_train.checkpoints.state import CheckpointStore, newest_step
from memvp_train.launch.heartbeat import Beat, Heartbeat, StillWatch, read_heartbeats, where

SIGNS_FOLDER = "signs-of-life"
_LONGEST_POLL = 10.0
_SECONDS_TO_FINISH = 5.0
_log = logging.getLogger(__name__)


class LaunchError(ValueError):
    """Workers could not be started, or failed more often than allowed."""


class WorkerFunction(Protocol):
    """What runs in every training worker."""

    def __call__(
        self, config: dict[str, Any], /, *, device: torch.device, checkpoints: CheckpointStore, beat: Beat
    ) -> None: ...


@dataclass(frozen=True)
class Failure:
    """The sentence that a launch ends with, in a file of its own: what an earlier launch still writes is not it."""

    path: Path

    def write(self, sentence: str) -> None:
        """Say why the run cannot go on."""
        with atomic_write(self.path) as file:
            file.write(json.dumps({"message": sentence}).encode())

    def read(self) -> str | None:
        """The sentence, None if nobody has written one."""
        try:
            return json.loads(self.path.read_bytes())["message"]
        except OSError:
            return None


class Restarts:
    """Counts restarts since the last checkpoint."""

    def __init__(self, run_folder: Path, *, failure: Failure, limit: int) -> None:
        self._run_folder, self._failure, self._limit = run_folder, failure, limit
        self._count = 0

    def committed(self) -> None:
        """A checkpoint has come: whatever failed before did not stop the run."""
        self._count = 0

    def failed(self, errors: Mapping[int, Exception]) -> bool:
        """Workers have failed, by rank; whether the run is to be given up, with its sentence written down."""
        self._count += 1
        if self._failure.read() is not None:
            return True
        if self._count <= self._limit:
            return False
        # A rank that died says more than the others, whose connection to it broke.
        rank = min(errors, key=lambda rank: (not hasattr(errors[rank], "preempted"), rank))
        signs = read_heartbeats(self._run_folder / SIGNS_FOLDER)
        self._failure.write(
            f"workers of {self._run_folder} failed more than {self._limit} times in a row without a new checkpoint "
            f"after step {newest_step(self._run_folder)}, last at {where(signs)}; "
            f"rank {rank}: {last_line(errors[rank])}; mend that and run the same command again"
        )
        return True


def last_line(error: Exception) -> str:
    """What a long message says at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def ending_hangs(run_folder: Path, *, seconds: float, kill: Callable[[Heartbeat], object]) -> Iterator[None]:
    """While the block runs, `kill` every worker of a group in which one has not moved for `seconds`."""
    stop = threading.Event()
    arguments = (run_folder / SIGNS_FOLDER, seconds, kill, stop)
    thread = threading.Thread(target=_end_hangs, args=arguments, name="end-hangs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def saying(line: Callable[[], str | None], *, seconds: float) -> Iterator[None]:
    """While the block runs, log every `seconds` what `line` gives, if it gives any."""
    stop = threading.Event()

    def say() -> None:
        while not stop.wait(seconds):
            try:
                said = line()
            except Exception as error:  # whoever is asked may be gone; this only talks
                said = f"what is waited for cannot be told ({last_line(error)})"
            if said:
                _log.warning("%s", said)

    thread = threading.Thread(target=say, name="saying", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_SECONDS_TO_FINISH)


def _end_hangs(folder: Path, seconds: float, kill: Callable[[Heartbeat], object], stop: threading.Event) -> None:
    watch = StillWatch(seconds=seconds)
    while not stop.wait(min(seconds / 5, _LONGEST_POLL)):
        signs = read_heartbeats(folder)
        still = watch.still(signs, now=time.monotonic())
        if still:
            _log.warning(
                "workers stand still for %g s at %s; they are ended and start again from the last checkpoint",
                *(seconds, where(still)),
            )
            # All of them: whoever only waits for the one that hangs cannot be told from it.
            for sign in signs:
                kill(sign)
