"""One writer per folder: a second one is refused, a dead or silent one replaced, and a replaced one cannot go on."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memvp_train.checkpoints.lease import LeaseError, hold_lease

pytestmark = pytest.mark.faults

HOLDER = """
import sys, time
from pathlib import Path
from memvp_train.checkpoints.lease import LeaseError, hold_lease
with hold_lease(Path(sys.argv[1]), doing="writing", expires_seconds=float(sys.argv[2])) as lease:
    print(lease.number, flush=True)
    sys.stdin.readline()
    try:
        lease.check()
        print("still mine", flush=True)
    except LeaseError as error:
        print(error, flush=True)
"""


def _holder(folder: Path, *, expires_seconds: float = 120) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), str(expires_seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()
    return process


def _elsewhere(folder: Path) -> None:
    """Make the newest claim one of another machine, whose processes cannot be looked at from here."""
    path = sorted(folder.glob(".lease-*.json"))[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "another-machine"}))


def test_numbers_only_rise_and_a_released_lease_is_free(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        with hold_lease(tmp_path, doing="writing") as lease:
            assert lease.number == number
            lease.check()
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".lease-000003.json", ".lease-000004.json"]


def test_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with (
        hold_lease(tmp_path, doing="training in"),
        pytest.raises(LeaseError, match=rf"another job is training in .* \(pid {os.getpid()} on .* last seen"),
        hold_lease(tmp_path, doing="training in"),
    ):
        pass


def test_lease_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    holder.kill()
    holder.wait()
    with hold_lease(tmp_path, doing="writing") as lease:
        assert lease.number == 2


def test_lease_of_a_silent_machine_is_taken_over_when_it_expires(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    holder.kill()
    holder.wait()
    _elsewhere(tmp_path)
    with pytest.raises(LeaseError, match="another-machine"), hold_lease(tmp_path, doing="writing", expires_seconds=1):
        pass
    time.sleep(1.1)
    with hold_lease(tmp_path, doing="writing", expires_seconds=1) as lease:
        assert lease.number == 2


def test_living_owner_keeps_its_lease_beyond_the_expiry(tmp_path: Path) -> None:
    with hold_lease(tmp_path, doing="writing", expires_seconds=2) as lease:
        _elsewhere(tmp_path)
        time.sleep(2.5)
        with pytest.raises(LeaseError), hold_lease(tmp_path, doing="writing", expires_seconds=2):
            pass
        lease.check()


def test_stopped_owner_that_wakes_up_is_fenced_off(tmp_path: Path) -> None:
    holder = _holder(tmp_path, expires_seconds=0.5)
    try:
        holder.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        with hold_lease(tmp_path, doing="writing", expires_seconds=0.5) as lease:
            assert lease.number == 2
            holder.send_signal(signal.SIGCONT)
            output, _ = holder.communicate("go on\n", timeout=120)
            assert "was taken over by another job" in output
            assert f"pid {os.getpid()}" in output
            lease.check()
    finally:
        holder.kill()
        holder.wait()


@contextmanager
def _no_room() -> Iterator[None]:
    """No file of this process can grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _no_links(*_: object) -> None:
    raise PermissionError


def test_a_full_disk_leaves_no_claim_behind(tmp_path: Path) -> None:
    with _no_room(), pytest.raises(OSError, match=str(tmp_path)), hold_lease(tmp_path, doing="writing"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_is_claimed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    with hold_lease(tmp_path, doing="writing"), pytest.raises(LeaseError), hold_lease(tmp_path, doing="writing"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lease-000001.json"]


def test_a_release_on_a_full_disk_leaves_the_claim_readable(tmp_path: Path) -> None:
    with _no_room_at_the_end(tmp_path):
        pass
    claim = json.loads((tmp_path / ".lease-000001.json").read_text())
    assert claim["pid"] == os.getpid()


@contextmanager
def _no_room_at_the_end(folder: Path) -> Iterator[None]:
    lease = hold_lease(folder, doing="writing")
    lease.__enter__()
    yield
    with _no_room():
        lease.__exit__(None, None, None)


def test_of_many_at_once_exactly_one_wins(tmp_path: Path) -> None:
    start, outcomes = threading.Barrier(8), list[bool]()

    def take() -> None:
        start.wait()
        try:
            with hold_lease(tmp_path, doing="writing"):
                start.wait()
            outcomes.append(True)
        except LeaseError:
            outcomes.append(False)
            start.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]
