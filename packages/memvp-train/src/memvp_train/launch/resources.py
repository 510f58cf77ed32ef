"""What workers ask for beside what there is: in words, and refused where it can never be had. It knows no Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memvp_train.config import ConfigError, LaunchConfig
from memvp_train.launch.supervision import LaunchError

_WORKERS_PER_CORE = 4
"""More than one a core try out what will run elsewhere; beyond this they only push one another aside."""


@dataclass(frozen=True)
class Resources:
    """CPU cores and GPUs: of a worker, a machine, or all machines."""

    cpus: float
    gpus: float = 0

    @classmethod
    def of(cls, named: Mapping[str, float]) -> Resources:
        """From Ray's names."""
        return cls(named.get("CPU", 0), named.get("GPU", 0))

    @classmethod
    def of_worker(cls, launch: LaunchConfig) -> Resources:
        """What each worker is given."""
        return cls(launch.cpus_per_worker, 1 if launch.use_gpu else 0)

    def __str__(self) -> str:
        return f"{counted(self.cpus, 'CPU')} and {counted(self.gpus, 'GPU')}"

    def room_for(self, wanted: Resources) -> int:
        """How many times `wanted` fits in."""
        pairs = ((self.cpus, wanted.cpus), (self.gpus, wanted.gpus))
        return int(min(has / asked for has, asked in pairs if asked) + 1e-9)


def counted(number: float, name: str) -> str:
    """1 worker, 2 workers."""
    return f"{number:,g} {name}{'' if number == 1 else 's'}"


def check_machine(launch: LaunchConfig) -> None:
    """Refuse, before any work, more than this machine has, where it is the one to train on. Raises ConfigError."""
    cores, num_ranks = os.cpu_count() or 1, max(1, launch.num_workers)
    if launch.use_gpu and (gpus := _num_gpus()) < num_ranks:
        raise ConfigError(
            f"launch.use_gpu with launch.num_workers={launch.num_workers} needs {counted(num_ranks, 'GPU')}, but torch "
            f"sees {gpus} on this machine; set launch.use_gpu=false, or $RAY_ADDRESS to a Ray that has them"
        )
    if launch.num_workers and launch.cpus_per_worker > cores:
        raise ConfigError(
            f"launch.cpus_per_worker={launch.cpus_per_worker} is more than the {counted(cores, 'core')} of this machine"
        )
    if launch.num_workers > _WORKERS_PER_CORE * cores:
        raise ConfigError(
            f"launch.num_workers={launch.num_workers} would share the {counted(cores, 'core')} of this machine; "
            f"set at most {_WORKERS_PER_CORE * cores} (1 per core is fastest), or $RAY_ADDRESS to a larger Ray"
        )


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def check_room(wanted: Resources, *, count: int, of: str, machines: Sequence[Resources]) -> None:
    """Refuse `count` times `wanted` where it does not fit in these machines, and no others will come.

    `of` says whose resources they are: "worker", "actor". Raises LaunchError.
    """
    room = sum(machine.room_for(wanted) for machine in machines)
    if room < count:
        has = Resources(sum(one.cpus for one in machines), sum(one.gpus for one in machines))
        raise LaunchError(
            f"{counted(count, of)} with {wanted} each {'is' if count == 1 else 'are'} asked for, but this Ray has room "
            f"for {room} ({has} on {counted(len(machines), 'machine')}) and starts no machines by itself; ask for less "
            "or add machines first"
        )
