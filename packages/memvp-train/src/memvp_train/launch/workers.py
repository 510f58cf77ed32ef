"""A group of training workers on Ray that goes on when some of them die or hang.

A driver that dies leaves committed checkpoints; the same call finds them. Checkpoints are found by their own hashes
(checkpoints/state.py), so a damaged snapshot of Ray's cannot hide them or bring back a broken one.
"""

import math
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.train import CheckpointConsistencyMode, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from memvp_train.checkpoints.disk import write_failed
from memvp_train.checkpoints.lease import Lease
from memvp_train.checkpoints.state import (
    KEPT,
    TrainingState,
    confirm,
    newest_first,
    num_parameters,
    write_state,
)
from memvp_train.config import LaunchConfig
from memvp_train.launch.cluster import SECONDS_BETWEEN, check_workers, waiting_for, waits_for_workers
from memvp_train.launch.environment import environment, quiet
from memvp_train.launch.heartbeat import Heartbeat, HeartbeatWriter, kill_process
from memvp_train.launch.ray_snapshot import copy_snapshot, mend_snapshot
from memvp_train.launch.resources import Resources
from memvp_train.launch.session import ray_session
from memvp_train.launch.supervision import (
    SIGNS_FOLDER,
    Failure,
    LaunchError,
    Restarts,
    WorkerFunction,
    ending_hangs,
    last_line,
    saying,
)


def run_workers(
    fn: WorkerFunction,
    *,
    config: dict[str, Any],
    launch: LaunchConfig,
    name: str,
    storage: Path,
    lease: Lease | None = None,
) -> None:
    """Run `fn(config, device=, checkpoints=, beat=)` on `launch.num_workers` workers of one group until all return.

    A worker that dies, or begins no step for `launch.hang_seconds`, is replaced with all others and `fn` continues
    from its checkpoints below `storage`/`name`; so often as new checkpoints come, else `launch.max_failures` times.
    A `ValueError` in `fn` is raised here with its sentence and not tried again. Workers commit under `lease`.
    """
    run_folder = storage.resolve() / name
    run_folder.mkdir(parents=True, exist_ok=True)
    for old in run_folder.glob("failure-*.json"):
        old.unlink()
    shutil.rmtree(run_folder / SIGNS_FOLDER, ignore_errors=True)
    mend_snapshot(run_folder, ray_version=ray.__version__)
    # A name of its own: what workers of an earlier launch still write does not end this one.
    work = _Work(fn, config, run_folder, Failure(run_folder / f"failure-{uuid.uuid4().hex[:8]}.json"), launch, lease)
    with (
        ray_session(launch),
        _train_settings(launch),
        ending_hangs(run_folder, seconds=launch.hang_seconds, kill=_kill),
        saying(lambda: _waiting(launch), seconds=SECONDS_BETWEEN),
        _keeping_interrupts(),
    ):
        check_workers(launch)
        try:
            _trainer(work).fit()
        except (ray.train.TrainingFailedError, RayActorError, RayTaskError) as error:
            sentence = work.failure.read()
            raise LaunchError(
                sentence
                or f"workers of {run_folder} failed ({last_line(error)}); run the same command again to continue from "
                "the last checkpoint"
            ) from error


@dataclass(frozen=True)
class _Work:
    """What workers and controller are given."""

    fn: WorkerFunction
    config: dict[str, Any]
    run_folder: Path
    failure: Failure
    launch: LaunchConfig
    lease: Lease | None


def _trainer(work: _Work) -> TorchTrainer:
    launch = work.launch
    return TorchTrainer(
        _worker_main,
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend="nccl" if launch.use_gpu else "gloo", timeout_s=launch.timeout_seconds),
        scaling_config=ScalingConfig(
            num_workers=launch.num_workers,
            use_gpu=launch.use_gpu,
            resources_per_worker={"CPU": launch.cpus_per_worker, **({"GPU": 1} if launch.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=work.run_folder.name,
            storage_path=str(work.run_folder.parent),
            failure_config=FailureConfig(max_failures=-1),  # _Supervisor ends what gets nowhere
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=KEPT),
            callbacks=[_Supervisor(Restarts(work.run_folder, failure=work.failure, limit=launch.max_failures))],
        ),
    )


class _Supervisor(ray.train.UserCallback):
    """Runs in Ray's controller: gives up a run whose workers fail again and again without a new checkpoint between."""

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self._restarts.committed()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray wraps the death of a worker into a failed health check.
        errors = {rank: getattr(error, "health_check_failure", error) for rank, error in worker_exceptions.items()}
        is_preemption = any(isinstance(error, RayActorError) and error.preempted for error in errors.values())
        if not is_preemption and self._restarts.failed(errors):
            raise LaunchError("given up")  # ends the run; the driver raises the sentence that was written


def _worker_main(loop_config: dict[str, Any]) -> None:
    """Runs in every worker, in a thread of its actor."""
    work: _Work = loop_config["work"]
    torch.set_num_threads(work.launch.cpus_per_worker)
    os.environ.setdefault("DEEPSPEED_TIMEOUT", str(math.ceil(work.launch.timeout_seconds / 60)))
    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    heart = HeartbeatWriter(work.run_folder / SIGNS_FOLDER, rank=rank, node=node)
    checkpoints = RayCheckpoints(work.run_folder, lease=work.lease)
    try:
        work.fn(work.config, device=get_device(), checkpoints=checkpoints, beat=heart.beat)
    except ValueError as error:
        work.failure.write(str(error))
        raise
    heart.stop()


class RayCheckpoints:
    """Checkpoints of a Ray Train run, committed when Ray's controller has written down that they exist."""

    def __init__(self, run_folder: Path, *, lease: Lease | None) -> None:
        self._folder, self._lease = run_folder, lease
        self._notice: Any = None

    def candidates(self) -> list[Path]:
        return newest_first(self._folder)

    def check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def wanted(self) -> bool:
        """Once for every notice that a machine will be taken away. A barrier: all ranks hear what rank 0 heard."""
        notice = ray.train.get_preemption_info()
        is_new = notice is not None and notice != self._notice
        self._notice = notice
        return is_new

    def commit(self, state: TrainingState) -> None:
        """Report rank 0's state and wait until a restart of workers or driver would find it."""
        self.check()
        is_first = ray.train.get_context().get_world_rank() == 0
        # A name of its own per attempt: leftovers of a killed upload are never merged into it.
        name = f"step-{state.step:09d}-{uuid.uuid4().hex[:8]}"
        with tempfile.TemporaryDirectory(prefix="memvp-checkpoint-") as folder:
            checkpoint = None
            if is_first:
                write_state(state, Path(folder), fence=0 if self._lease is None else self._lease.number)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            try:
                ray.train.report({"step": state.step}, checkpoint=checkpoint, checkpoint_dir_name=name)
            except OSError as error:
                size = num_parameters(state)
                raise write_failed(error, folder=self._folder / name, num_parameters=size) from error
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED, timeout_s=600)
        if is_first:
            confirm(self._folder / name)  # Ray copies without syncing
            copy_snapshot(self._folder, ray_version=ray.__version__)


@contextmanager
def _train_settings(launch: LaunchConfig) -> Iterator[None]:
    """Poll often, so that a commit takes tenths of a second; no log lines among the caller's progress bars."""
    values = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(launch.timeout_seconds),
    }
    with environment(values), quiet("ray.train"), quiet("ray.data"):
        yield


@contextmanager
def _keeping_interrupts() -> Iterator[None]:
    """Ray leaves its own handler of ctrl-C behind, which later ends the program without a word and with success."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _waiting(launch: LaunchConfig) -> str | None:
    """The line to say while the group has no room."""
    if not waits_for_workers():
        return None
    return waiting_for(Resources.of_worker(launch), count=launch.num_workers, of="worker")


def _kill(sign: Heartbeat) -> None:
    """End a worker where it runs: one that is stopped or hangs in a library hears nothing else."""
    place = NodeAffinitySchedulingStrategy(sign.node, soft=False)
    ray.remote(kill_process).options(num_cpus=0, scheduling_strategy=place).remote(sign.pid, sign.started)
