"""The head for trying out submitted jobs: it comes up, takes a job, goes down, and touches nothing of anybody else."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
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
SCRIPT = Path(__file__).resolve().parents[2] / "infra/ray/local_head.sh"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Unix sockets lie below it, whose paths may have 107 characters: pytest's own folders are too deep."""
    with tempfile.TemporaryDirectory(prefix="mv-", dir="/tmp") as parent:
        yield Path(parent) / "head"


def call(folder: Path, *arguments: str, port: int = 1) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_HEAD_FOLDER": str(folder), "RAY_HEAD_PORT": str(port)}
    command = [str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_down_without_a_head_is_no_error(folder: Path) -> None:
    done = call(folder, "down")
    assert (done.returncode, done.stdout) == (0, "down\n")


def test_submitting_without_a_head_says_what_to_do(folder: Path) -> None:
    done = call(folder, "submit", "true")
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
    finally:
        assert call(folder, "down", port=port).returncode == 0
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
