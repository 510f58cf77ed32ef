"""A session of Ray: connect to the one at RAY_ADDRESS, or start one on this machine and stop it again."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.train
from ray.exceptions import RayError

from memvp_train.config import LaunchConfig
from memvp_train.launch.checks import check_launch
from memvp_train.launch.cluster import mark_one_machine
from memvp_train.launch.environment import environment, local_ray, quiet
from memvp_train.launch.resources import check_machine
from memvp_train.launch.supervision import LaunchError


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
        _connect(address) if address else _start(launch)
        try:
            yield
        finally:
            ray.shutdown()


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
    mark_one_machine()
