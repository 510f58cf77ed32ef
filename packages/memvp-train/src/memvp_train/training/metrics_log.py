"""The training curve as a file: one JSON line per optimiser step, each step exactly once however often training died.

`MetricsLog` writes it (rank 0), `read_metrics` reads it, `follow_metrics` yields its rows while training still runs.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memvp_data.files.atomic import atomic_write

METRICS_FILE = "metrics.jsonl"
MetricsRow = dict[str, float]
"""What is known of one optimiser step, by name."""


class MetricsLog:
    """Append-only writer. Opening it cuts off the rows after `step`: they will be made again."""

    def __init__(self, path: Path, *, step: int) -> None:
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        with atomic_write(path) as file:
            file.writelines(_line(row) for row in kept)
        self._path, self._file = path, path.open("ab")

    def write(self, rows: list[MetricsRow]) -> None:
        """Append rows and hand them to the operating system at once: a killed process loses none of them.

        A full disk raises the usual `OSError`, with the path named.
        """
        try:
            self._file.write(b"".join(_line(row) for row in rows))
            self._file.flush()
        except OSError as error:
            error.filename = str(self._path)
            raise

    def sync(self) -> None:
        """Make what was written survive a power cut; called before a checkpoint that relies on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _line(row: MetricsRow) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read_metrics(path: Path) -> list[MetricsRow]:
    """Complete rows of the file, in its order; [] if it does not exist. A half-written last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines if line]


def follow_metrics(path: Path | str, *, stop: threading.Event, poll_seconds: float = 0.3) -> Iterator[MetricsRow]:
    """Yield each step's row once, as it appears, until `stop` is set and the file is read to its end.

    Steps that are made again after a restart are not yielded a second time.
    """
    tail, last_step = _Tail(Path(path)), 0
    while True:
        stopping = stop.is_set()
        for row in tail.new_rows():
            if row["step"] > last_step:
                last_step = int(row["step"])
                yield row
        if stopping:
            return
        stop.wait(poll_seconds)


@contextmanager
def following_metrics(path: Path, *, on_step: Callable[[MetricsRow], None]) -> Iterator[None]:
    """Hand the rows to `on_step` from a thread while the block runs, the rest when it ends."""
    stop = threading.Event()

    def follow() -> None:
        for row in follow_metrics(path, stop=stop):
            on_step(row)

    thread = threading.Thread(target=follow, name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Tail:
    """Reads on where it was; from the start when the file was replaced by another."""

    def __init__(self, path: Path) -> None:
        self._path, self._inode, self._offset = path, -1, 0

    def new_rows(self) -> list[MetricsRow]:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.split(b"\n") if line]
