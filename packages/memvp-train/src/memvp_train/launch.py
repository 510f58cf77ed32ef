"""Run functions on Ray: training workers with fault tolerance, maps over items. The only file that imports ray.

A driver that dies leaves committed checkpoints; the same call finds them. Checkpoints are found by their own hashes
(checkpoint.py), so a damaged snapshot of Ray's cannot hide them or bring back a broken one.
"""

import json
import logging
import os
import secrets
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train import CheckpointConsistencyMode, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from memvp_data.atomic import atomic_write
from memvp_train.checkpoint import CheckpointStore, TrainingState, newest_first, write_state
from memvp_train.config import ConfigError, LaunchConfig
from memvp_train.snapshot import copy_snapshot, mend_snapshot

_FAILURE = "failure.json"
Item = TypeVar("Item")
Result = TypeVar("Result")


class LaunchError(ValueError):
    """Workers could not be started, or failed more often than allowed."""


class WorkerFunction(Protocol):
    """What runs in every worker."""

    def __call__(self, config: dict[str, Any], /, *, device: torch.device, checkpoints: CheckpointStore) -> None: ...


@contextmanager
def ray_session(launch: LaunchConfig) -> Iterator[None]:
    """Connect to the Ray at RAY_ADDRESS, or start one on this machine; at the end, stop only what was started.

    Inside another session it does nothing. A local Ray listens with a token of its own that no file keeps, unless
    RAY_AUTH_MODE says otherwise; its dashboard is bound to loopback.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with _environment({} if address else _local_environment()), _quiet("ray"):
        _connect(address) if address else _start(launch)
        try:
            yield
        finally:
            ray.shutdown()


def check_launch(launch: LaunchConfig) -> None:
    """Refuse, before any work, a launch that cannot start here."""
    if launch.dashboard_port is None or os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", launch.dashboard_port))
        except OSError as error:
            raise ConfigError(
                f"port {launch.dashboard_port} on 127.0.0.1 is in use ({error.strerror}); "
                "set launch.dashboard_port to a free port, or leave it out to let Ray choose"
            ) from None


def _local_environment() -> dict[str, str | None]:
    """A token only this process and its children know, so that no other user can run code on our Ray.

    RAY_AUTH_MODE stays unset where the user left it so: `ray.init` then switches token mode on by itself (2.60 and
    later), which it would not notice in a variable set after `import ray`. Both are taken back when the session ends.
    """
    quiet: dict[str, str | None] = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
        return quiet
    return {**quiet, "RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": _session_token()}


@cache
def _session_token() -> str:
    """One for the life of the process: Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set (or, by None, unset) variables for a block and put back what was there, whatever happens to them inside."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _connect(address: str) -> None:
    hint = "start that Ray, or unset RAY_ADDRESS to use one of your own"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        # Ray itself would go on trying for minutes.
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise LaunchError(f"no Ray answers at RAY_ADDRESS={address} ({error.strerror or error}); {hint}") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise LaunchError(f"no Ray answers at RAY_ADDRESS={address} ({reason}); {hint}") from None


def _start(launch: LaunchConfig) -> None:
    check_launch(launch)
    needed = max(1, launch.num_workers) * launch.cpus_per_worker
    ray.init(
        num_cpus=max(needed, os.cpu_count() or 1),
        object_store_memory=256 << 20,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=launch.dashboard_port,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def run_workers(fn: WorkerFunction, *, config: dict[str, Any], launch: LaunchConfig, name: str, storage: Path) -> None:
    """Run `fn(config, device=, checkpoints=)` on `launch.num_workers` workers of one process group until all return.

    A worker that dies is replaced, with all others, up to `launch.max_failures` times, and `fn` continues from its
    checkpoints below `storage`/`name`. A `ValueError` in `fn` is raised here with its sentence, and not tried again
    more than once.
    """
    run_folder = storage.resolve() / name
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / _FAILURE).unlink(missing_ok=True)
    mend_snapshot(run_folder, ray_version=ray.__version__)
    with ray_session(launch), _quiet_train():
        try:
            _trainer(fn, config=config, launch=launch, run_folder=run_folder).fit()
        except (ray.train.TrainingFailedError, RayActorError, RayTaskError) as error:
            _raise_failure(run_folder)
            raise LaunchError(
                f"workers of {run_folder} failed more than {launch.max_failures} times; last: {_last_line(error)}; "
                "run the same command again to continue from the last checkpoint"
            ) from error
    _raise_failure(run_folder)


def _trainer(fn: WorkerFunction, *, config: dict[str, Any], launch: LaunchConfig, run_folder: Path) -> TorchTrainer:
    return TorchTrainer(
        _worker_main,
        train_loop_config={
            "fn": fn,
            "config": config,
            "num_threads": launch.cpus_per_worker,
            "run_folder": str(run_folder),
        },
        torch_config=TorchConfig(backend="nccl" if launch.use_gpu else "gloo", timeout_s=launch.timeout_seconds),
        scaling_config=ScalingConfig(
            num_workers=launch.num_workers,
            use_gpu=launch.use_gpu,
            resources_per_worker={"CPU": launch.cpus_per_worker, **({"GPU": 1} if launch.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=run_folder.name,
            storage_path=str(run_folder.parent),
            failure_config=FailureConfig(max_failures=launch.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )


def _worker_main(loop_config: dict[str, Any]) -> None:
    """Runs in every worker, in a thread of its actor."""
    torch.set_num_threads(loop_config["num_threads"])
    run_folder = Path(loop_config["run_folder"])
    if (run_folder / _FAILURE).is_file():
        return  # the same settings would fail again; the driver raises what is written there
    try:
        loop_config["fn"](loop_config["config"], device=get_device(), checkpoints=RayCheckpoints(run_folder))
    except ValueError as error:
        with atomic_write(run_folder / _FAILURE) as file:
            file.write(json.dumps({"message": str(error)}).encode())
        raise


class RayCheckpoints:
    """Checkpoints of a Ray Train run, committed when Ray's controller has written down that they exist."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder

    def candidates(self) -> list[Path]:
        return newest_first(self._folder)

    def commit(self, state: TrainingState) -> None:
        """Report rank 0's state and wait until a restart of workers or driver would find it."""
        is_first = ray.train.get_context().get_world_rank() == 0
        # A name of its own per attempt: leftovers of a killed upload are never merged into it.
        name = f"step-{state.step:09d}-{uuid.uuid4().hex[:8]}"
        with tempfile.TemporaryDirectory(prefix="memvp-checkpoint-") as folder:
            checkpoint = None
            if is_first:
                write_state(state, Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": state.step}, checkpoint=checkpoint, checkpoint_dir_name=name)
            ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED, timeout_s=600)
        if is_first:
            copy_snapshot(self._folder, ray_version=ray.__version__)


@contextmanager
def _quiet_train() -> Iterator[None]:
    """Poll often, so that a commit takes tenths of a second; no log lines among the caller's progress bars."""
    intervals = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
    with _environment(intervals), _quiet("ray.train"), _quiet("ray.data"):
        yield


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _raise_failure(run_folder: Path) -> None:
    try:
        message = json.loads((run_folder / _FAILURE).read_bytes())["message"]
    except OSError:
        return
    raise LaunchError(message)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def map_shards(
    fn: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    cpus_per_task: int = 1,
    gpus_per_task: float = 0,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """`fn` of every item as Ray tasks, results in the order of the items; needs an open `ray_session`.

    `on_done` gets the number of finished items. A `ValueError` of a task is raised here as itself.
    """
    task = ray.remote(fn).options(num_cpus=cpus_per_task, num_gpus=gpus_per_task, max_retries=3)
    pending = references = [task.remote(item) for item in items]
    try:
        while pending:
            finished, pending = ray.wait(pending, num_returns=1)
            ray.get(finished)
            on_done(len(references) - len(pending))
        return ray.get(references)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        for reference in pending:
            ray.cancel(reference)
        if isinstance(cause, ValueError):
            raise cause from None
        raise
