"""The cores of this process, for a job that has no workers to share them with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def num_cores() -> int:
    """$OMP_NUM_THREADS if it is set, else the cores that this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    # Only Linux knows which cores a process may run on.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin_briefly() -> None:
    """Threads of torch that wait for one another sleep soon; the variable counts if torch is not imported yet.

    Spinning for milliseconds, as is usual, they take the cores from what they wait for as soon as anything else runs on
    the machine; sleeping at once, they wake too late for the next of many short operations.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use them all while the block runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
