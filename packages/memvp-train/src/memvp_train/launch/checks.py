"""What would keep a launch from starting on this machine, seen before any work and without importing Ray."""

import os
import socket
import sys

from memvp_train.config import ConfigError, LaunchConfig


def check_launch(launch: LaunchConfig) -> None:
    """Refuse, before any work, a launch that cannot start here."""
    if launch.dashboard_port is None or os.environ.get("RAY_ADDRESS") or _runs_ray():
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


def _runs_ray() -> bool:
    """A session of this process holds the port; without an import of Ray there is none."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
