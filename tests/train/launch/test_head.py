"""A dead head of Ray is missed within seconds and said, whatever waits for Ray; one that comes back is waited for."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memvp_train.launch import head
from memvp_train.launch.head import watching_head
from memvp_train.launch.supervision import LaunchError
from tests.forks import fork


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_SECONDS_BETWEEN_LOOKS", 0.02)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Stands for the head."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        yield server


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def wait_for_ever() -> None:
    threading.Event().wait()


def test_what_waits_for_a_dead_head_is_ended(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    before, address = signal.getsignal(signal.SIGUSR1), address_of(listener)
    threading.Timer(0.2, listener.close).start()
    sentence = rf"^Ray's head at {address} died or cannot be reached; run it again$"
    with pytest.raises(LaunchError, match=sentence), watching_head(address, patience=0.2, mend="run it again"):
        wait_for_ever()
    assert signal.getsignal(signal.SIGUSR1) == before
    said = f"Ray's head at {address} does not answer; after 0.2 s without it this ends (run it again)"
    assert [record.message for record in caplog.records] == [said]


def test_a_head_that_comes_back_is_waited_for(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    address, place = address_of(listener), listener.getsockname()
    with watching_head(address, patience=600, mend="run it again"):
        listener.close()
        while not caplog.records:
            time.sleep(0.01)
        with socket.create_server(place) as again:
            again.accept()
    assert len(caplog.records) == 1


def test_other_interrupts_and_signals_stay_what_they_are(listener: socket.socket) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with watching_head(address_of(listener), patience=600, mend="run it again"):
            signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt), watching_head(address_of(listener), patience=600, mend="run it again"):
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("way", ["task", "actor", "workers"])
def test_death_of_rays_head_is_a_sentence(way: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    program = fork("tests.train.launch.lost_head", "head", way, said=said)
    program.join(600)
    lines = said.read_text().splitlines()
    assert program.exitcode == 1, lines
    assert lines[-1].startswith("error: Ray's head at "), lines
    assert lines[-1].endswith("; finished steps and committed checkpoints are kept: run the same command again"), lines
    assert len(lines) == 2, lines


@pytest.mark.faults
@pytest.mark.parametrize("way", ["task", pytest.param("workers", marks=pytest.mark.slow)])
def test_sigterm_while_ray_works_is_a_sentence(way: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    program = fork("tests.train.launch.lost_head", "SIGTERM", way, said=said)
    program.join(600)
    assert said.read_text() == "terminated; closing what is open; run the same command again to continue\n"
    assert program.exitcode == 143
