"""A Ray that cannot be had is a sentence, before anything starts. One that can: the tests that ask for `on_ray`."""

import socket
import time
from typing import NoReturn

import pytest

from memvp_train.config import ConfigError, LaunchConfig
from memvp_train.launch import session
from memvp_train.launch.session import LaunchError, check_launch, ray_session


def test_port_that_is_taken_is_named_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use .*set launch.dashboard_port"):
            check_launch(LaunchConfig(dashboard_port=port))
    check_launch(LaunchConfig(dashboard_port=port))


def test_ray_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    before = time.monotonic()
    with (
        pytest.raises(LaunchError, match=r"^no Ray answers at RAY_ADDRESS=127\.0\.0\.1:1"),
        ray_session(LaunchConfig()),
    ):
        pass
    assert time.monotonic() - before < 60


def test_a_ray_that_takes_long_to_start_is_waited_for_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And one that never comes up is a sentence."""

    def start(*args: object, **settings: object) -> NoReturn:
        while not caplog.records:
            time.sleep(0.01)
        raise Exception("The current node timed out during startup. This could happen because of the GCS.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "_SECONDS_BETWEEN", 0.01)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    sentence = r"^Ray did not start on this machine \(The current node timed out during startup\); run the same command"
    with pytest.raises(LaunchError, match=sentence), ray_session(LaunchConfig()):
        pass
    assert caplog.records[0].message == "waiting for Ray to start on this machine"
