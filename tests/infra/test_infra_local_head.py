"""The head for trying out submitted jobs: it comes up, takes a job, goes down, and touches nothing of anybody else."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port

# Where driver and worker find the packages and the pipelines.
PROGRAM = """
import ray
ray.init("auto")
here = lambda: [__import__(name).__file__ for name in ("pipelines", "memvp_core", "memvp_data", "memvp_train")]
print("the same:", here() == ray.get(ray.remote(here).remote()), here()[0])
"""
# Waits in a call of Ray's, whose handlers of signals are C++ and say so.
WAITING = """
import sys, time
import ray
from memvp_train.config import LaunchConfig
from memvp_train.launch.session import ray_session
from pipelines.jobs.entry import exit_code
def job():
    with ray_session(LaunchConfig(num_workers=1)):
        print("wait" + "ing", flush=True)
        ray.get(ray.remote(lambda: time.sleep(600)).remote())
sys.exit(exit_code(job))
"""
SCRIPT = Path(__file__).resolve().parents[2] / "infra/ray/local_head.sh"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Unix sockets lie below it, whose paths may have 107 characters: pytest's own folders are too deep."""
    with tempfile.TemporaryDirectory(prefix="mv-", dir="/tmp") as parent:
        yield Path(parent) / "head"


def call(folder: Path, *arguments: str, port: int = 1, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    # COLUMNS is what some terminals and test runners export.
    environment = {**os.environ, "RAY_HEAD_FOLDER": str(folder), "RAY_HEAD_PORT": str(port), "COLUMNS": "40"}
    command = [str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_down_without_a_head_is_no_error(folder: Path) -> None:
    done = call(folder, "down")
    assert (done.returncode, done.stdout) == (0, "down\n")


@pytest.mark.parametrize("command", ["submit", "stop"])
def test_submitting_without_a_head_says_what_to_do(command: str, folder: Path) -> None:
    done = call(folder, command, "true")
    assert done.returncode == 1
    assert "make ray-up" in done.stderr


def test_unknown_command_explains_itself(folder: Path) -> None:
    assert call(folder, "sideways").returncode == 2


def test_folder_of_something_else_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    for command in ("up", "down"):
        assert call(folder, command).returncode == 1
    assert (folder / "thesis.tex").is_file()


def test_process_that_took_the_heads_number_is_not_stopped(folder: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        folder.mkdir()
        (folder / "token").write_text("x")
        (folder / "pid").write_text(str(other.pid))
        assert call(folder, "down").returncode == 0
        assert other.poll() is None
        assert not folder.exists()
    finally:
        other.kill()
        other.wait()


class Deaf(BaseHTTPRequestHandler):
    """A dashboard that takes jobs only after it was asked often."""

    asked = 0

    def do_GET(self) -> None:
        Deaf.asked += 1
        wants = self.path == "/api/jobs/" and self.headers["Authorization"].startswith("Bearer ")
        self.send_response(200 if wants and Deaf.asked > 11 else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Into nothing."""


@pytest.fixture
def other_ray(tmp_path: Path) -> Path:
    """A copy of the script beside a `ray` of the test's own, which is to be written."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (tmp_path / "infra/ray").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "infra/ray")
    (programs / "ray").touch(mode=0o755)
    return tmp_path


def test_what_is_waited_for_is_said(folder: Path, other_ray: Path) -> None:
    script, may_end = other_ray / "infra/ray/local_head.sh", other_ray / "may-end"
    end = f"until [ -e {may_end} ]; do sleep 0.1; done; exit 0"
    (other_ray / ".venv/bin/ray").write_text(f"#!/bin/sh\ntrap '{end}' TERM\nwhile :; do sleep 0.1; done\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Deaf)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        up = call(folder, "up", port=server.server_port, script=script)
        assert (up.returncode, up.stdout.split(":")[0]) == (0, "up"), up.stderr
        assert up.stderr == f"waiting for the head to take jobs (log: {folder}/head.log)\n"
        variables = {**os.environ, "RAY_HEAD_FOLDER": str(folder), "COLUMNS": "40"}
        down = subprocess.Popen([str(script), "down"], env=variables, stderr=subprocess.PIPE, text=True)
        assert down.stderr is not None
        assert down.stderr.readline().startswith("waiting for the head and its jobs to end (process ")
        may_end.touch()
        assert down.wait(60) == 0
    finally:
        may_end.touch()
        server.shutdown()
    assert not folder.exists()


def test_a_head_that_ends_at_once_is_told_with_its_last_lines(folder: Path, other_ray: Path) -> None:
    (other_ray / ".venv/bin/ray").write_text("#!/bin/sh\necho no room for a head\nexit 1\n")
    up = call(folder, "up", script=other_ray / "infra/ray/local_head.sh")
    assert up.returncode == 1
    assert "no room for a head" in up.stderr
    assert not folder.exists()


def assert_a_stopped_job_says_so(folder: Path, *, port: int) -> None:
    """And nothing else: no stack of C++."""
    variables = {**os.environ, "RAY_HEAD_FOLDER": str(folder), "RAY_HEAD_PORT": str(port)}
    command = [str(SCRIPT), "submit", "python", "-c", WAITING]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        assert job.stdout is not None
        before = list(takewhile(lambda line: line != "waiting\n", job.stdout))
        (name,) = {found for line in before for found in re.findall(r"raysubmit_\w+", line)}
        assert call(folder, "stop", name, port=port).returncode == 0
        after = job.stdout.read()
    assert "terminated; closing what is open; run the same command again to continue\n" in after
    assert "SIGTERM received" not in after


@pytest.mark.slow
def test_head_comes_up_takes_a_job_and_leaves_nothing(folder: Path) -> None:
    port, family = free_port(), list[psutil.Process]()
    try:
        up = call(folder, "up", port=port)
        assert up.returncode == 0, up.stderr
        assert (folder / "token").stat().st_mode & 0o077 == 0
        head = psutil.Process(int((folder / "pid").read_text()))
        family = [head, *head.children(recursive=True)]
        done = call(folder, "submit", "python", "-c", PROGRAM, port=port)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the same: True" in done.stdout
        assert "_ray_pkg_" in done.stdout.split("the same: True")[1], "the pipelines are not those that were sent"
        assert call(folder, "submit", "false", port=port).returncode == 1
        assert_a_stopped_job_says_so(folder, port=port)
    finally:
        assert call(folder, "down", port=port).returncode == 0
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
