"""All cores for torch while the driver itself computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use every core, or $OMP_NUM_THREADS, in the block; workers have ended by then, or there are none."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        torch.set_num_threads(before)
