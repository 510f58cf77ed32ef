"""A session of Ray: connect to the one at RAY_ADDRESS, or start one on this machine and stop it again."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import ray
import ray.train
from ray.exceptions import RayError

from memvp_train.config import LaunchConfig
from memvp_train.launch.checks import check_launch
from memvp_train.launch.cluster import mark_one_machine
from memvp_train.launch.environment import environment, local_ray, quiet
from memvp_train.launch.head import watching_head
from memvp_train.launch.resources import check_machine
from memvp_train.launch.supervision import LaunchError, saying

# Seconds without the head. Ray itself ends the program after 60, or what RAY_gcs_rpc_server_reconnect_timeout_s says.
_PATIENCE, _PATIENCE_ALONE = 40.0, 3.0
_SECONDS_BETWEEN = 15.0


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
    with environment({} if address else local_ray()), quiet("ray"):
        with _keeping_sigterm(), _waiting_for(f"Ray at {address}" if address else "Ray to start on this machine"):
            _connect(address) if address else _start(launch)
        try:
            with nullcontext() if _through_client(address) else _watching(address):
                yield
        finally:
            with _waiting_for("Ray to end"):
                ray.shutdown()


def _waiting_for(what: str) -> AbstractContextManager[None]:
    """On a busy machine Ray's processes take minutes."""
    return saying(lambda: f"waiting for {what}", seconds=_SECONDS_BETWEEN)


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """A handler of SIGTERM stays: Ray puts its own in its place, which ends the program without a word."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _through_client(address: str | None) -> bool:
    return address is not None and address.startswith("ray://")


def _watching(address: str | None) -> AbstractContextManager[None]:
    """Nobody starts the head of our own Ray again; another one may come back."""
    kept = "finished steps and committed checkpoints are kept: "
    mend = f"{kept}start that Ray again, then run the same command" if address else f"{kept}run the same command again"
    patience = _PATIENCE if address else _PATIENCE_ALONE
    return watching_head(ray.get_runtime_context().gcs_address, patience=patience, mend=mend)


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
    check_machine(launch)
    needed = max(1, launch.num_workers) * launch.cpus_per_worker
    try:
        ray.init(
            "local",  # else a head that anybody runs on this machine would be taken
            num_cpus=max(needed, os.cpu_count() or 1),
            object_store_memory=256 << 20,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=launch.dashboard_port,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        if type(error) is not Exception:  # of no kind: Ray's processes did not come up in its time
            raise
        raise LaunchError(
            f"Ray did not start on this machine ({str(error).partition('. ')[0]}); run the same command again when "
            "less else runs here, or set launch.num_workers=0 to do without Ray"
        ) from error
    mark_one_machine()
