"""What steps share while a job runs: MLflow, and one Ray session that starts when first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from memvp_train.config import LaunchConfig
from pipelines.tracking.job import JobTracking

if TYPE_CHECKING:
    from pipelines.tracking.mlflow import Tracker


@dataclass
class Services:
    """Held open by the job; `stack` closes the Ray session with it."""

    launch: LaunchConfig
    """how workers are started"""
    tracking: JobTracking
    """the job's line to MLflow"""
    stack: ExitStack
    """closed when the job ends"""
    run_id: str = ""
    """MLflow run of the step at work; "" when MLflow is away"""
    _ray_is_up: bool = field(default=False)

    @property
    def tracker(self) -> Tracker:
        """MLflow, the job's parent run open."""
        return self.tracking.tracker

    def check_resources(self) -> None:
        """Before any work: refuse what this machine, or the Ray at RAY_ADDRESS, can never give.

        A Ray of our own starts only when it is needed; the one at RAY_ADDRESS has to be asked.
        """
        if self.launch.num_workers == 0 or not os.environ.get("RAY_ADDRESS"):
            from memvp_train.launch.resources import check_machine

            check_machine(self.launch)
            return
        from memvp_train.launch.cluster import check_workers

        self.start_ray()
        check_workers(self.launch)

    def start_ray(self) -> None:
        """Connect to the cluster or start a local one, once; steps without workers never pay for it."""
        if self._ray_is_up or self.launch.num_workers == 0:
            return
        from memvp_train.launch.session import ray_session

        self.stack.enter_context(ray_session(self.launch))
        self._ray_is_up = True

    def map_shards(self) -> Callable[..., Any]:
        """The function that spreads work over shards: Ray tasks, or a plain loop where there are no workers."""
        if self.launch.num_workers == 0:
            return self._map_local_shards()
        from memvp_train.launch.maps import map_shards

        self.start_ray()
        gpus = 1 if self.launch.use_gpu else 0
        return partial(map_shards, cpus_per_task=self.launch.cpus_per_worker, gpus_per_task=gpus)

    def map_actors(self) -> tuple[Callable[..., Any], int]:
        """The function that spreads work over actors, each with its model, and how many: one each worker."""
        if self.launch.num_workers == 0:
            return self._map_local_actors()
        from memvp_train.launch.maps import map_actors

        self.start_ray()
        gpus = 1 if self.launch.use_gpu else 0
        actors = partial(map_actors, cpus_per_actor=self.launch.cpus_per_worker, gpus_per_actor=gpus)
        return actors, self.launch.num_workers

    def _map_local_shards(self) -> Callable[..., Any]:
        from memvp_train.launch.processes import num_processes

        count = num_processes(self.launch)
        if count == 1:
            from memvp_train.features.extract import map_here

            return map_here
        from memvp_train.launch.process_maps import map_shard_processes

        return partial(map_shard_processes, num_processes=count)

    def _map_local_actors(self) -> tuple[Callable[..., Any], int]:
        from memvp_train.launch.processes import num_processes

        count = num_processes(self.launch)
        if count == 1:
            from memvp_train.inference.predict import map_in_process

            return map_in_process, 1
        from memvp_train.launch.process_maps import map_processes

        return map_processes, count
