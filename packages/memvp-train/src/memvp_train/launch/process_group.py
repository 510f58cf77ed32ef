"""A group of training processes on this machine, without Ray: plain torch, gradients summed over loopback.

Nobody starts it again when one dies: the same command goes on from the last checkpoint.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, start_processes

from memvp_train.checkpoints.lease import Lease
from memvp_train.checkpoints.state import FolderCheckpoints, TrainingState
from memvp_train.launch.processes import START_METHOD, begin_process, serve_processes
from memvp_train.launch.supervision import Failure, LaunchError, WorkerFunction, last_line

_SECONDS_TO_SAY_WHY = 10


def run_processes(
    fn: WorkerFunction, *, config: dict[str, Any], num_processes: int, timeout_seconds: int, folder: Path, lease: Lease
) -> None:
    """Run `fn(config, device=, checkpoints=, beat=)` in a process group on this machine until all return.

    Rank 0 writes the checkpoints, in `folder`. Raises `LaunchError` with the sentence of a `ValueError` in `fn`, or
    saying how a process ended.
    """
    with tempfile.TemporaryDirectory(prefix="memvp-processes-") as meeting:
        work = _Work(fn, config, num_processes, timeout_seconds, folder, lease, Path(meeting))
        serve_processes()
        group = start_processes(
            _worker_main, args=(work,), nprocs=num_processes, join=False, daemon=True, start_method=START_METHOD
        )
        assert group is not None
        try:
            while not group.join(grace_period=_SECONDS_TO_SAY_WHY):
                pass
        except ProcessException as error:
            raise LaunchError(
                work.failure.read()
                or f"a training process below {folder} failed ({last_line(error)}); run the same command again to "
                "continue from the last checkpoint"
            ) from error
        finally:
            for process in filter(None, group.processes):
                process.kill()
                process.join()


@dataclass(frozen=True)
class _Work:
    """What each process of a group is given."""

    fn: WorkerFunction
    config: dict[str, Any]
    num_processes: int
    timeout_seconds: int
    folder: Path
    lease: Lease
    meeting: Path
    """Folder where the processes find one another, and leave what went wrong."""

    @property
    def failure(self) -> Failure:
        return Failure(self.meeting / "failure.json")


def _worker_main(rank: int, work: _Work) -> None:
    begin_process()
    # By the machine's name, gloo may look for the others on an interface that is not there or is guarded.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(
        "gloo",
        init_method=(work.meeting / "ranks").as_uri(),
        rank=rank,
        world_size=work.num_processes,
        timeout=timedelta(seconds=work.timeout_seconds),
    )
    checkpoints = (FolderCheckpoints if rank == 0 else _OfFirstRank)(work.folder, lease=work.lease)
    try:
        work.fn(work.config, device=torch.device("cpu"), checkpoints=checkpoints, beat=lambda step, samples: None)
    except ValueError as error:
        work.failure.write(str(error))
        raise
    dist.destroy_process_group()


class _OfFirstRank(FolderCheckpoints):
    """The checkpoints as other ranks see them: rank 0 writes for all."""

    def commit(self, state: TrainingState) -> None:
        self.check()
