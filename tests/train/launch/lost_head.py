"""A program whose Ray's head is killed, or that is asked to end, while it waits for Ray in one of its ways."""

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from memvp_train.config import LaunchConfig
from memvp_train.launch.maps import map_actors, map_shards
from memvp_train.launch.session import ray_session
from memvp_train.launch.workers import run_workers
from pipelines.jobs.entry import exit_code

LAUNCH = LaunchConfig(num_workers=1)


def begin_and_sleep(begun: Path) -> None:
    """What a task, an actor or a worker does."""
    begun.touch()
    time.sleep(600)


def wait_for_ray(way: str, begun: Path) -> None:
    """Never returns by itself."""
    if way == "task":
        map_shards(begin_and_sleep, [begun])
    elif way == "actor":
        map_actors(lambda: begin_and_sleep, [begun], num_actors=1)
    else:

        def work(config: dict[str, Any], **others: Any) -> None:
            begin_and_sleep(begun)

        run_workers(work, config={}, launch=LAUNCH, name="train", storage=begun.parent)


def end_when_begun(what: str, begun: Path) -> None:
    """In a thread."""
    while not begun.exists():
        time.sleep(0.1)
    if what == "head":
        (head,) = (one for one in psutil.Process().children(recursive=True) if "gcs_server" in one.name())
        head.kill()
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def main(what: str, way: str) -> int:
    """`head` or `SIGTERM`, `task`, `actor` or `workers` -> exit code."""
    with tempfile.TemporaryDirectory() as folder:
        begun = Path(folder) / "begun"

        def job() -> None:
            with ray_session(LAUNCH):
                threading.Thread(target=end_when_begun, args=(what, begun), daemon=True).start()
                wait_for_ray(way, begun)

        return exit_code(job)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
