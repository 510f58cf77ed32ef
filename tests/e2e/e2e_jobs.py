"""Real jobs: the entry point as a process, a Ray head that is started and stopped here, models small enough for seconds."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "pipelines/instruct_tune.py"
RECIPE = "pipelines/recipes/smoke.yaml"
# A checkpoint after each step makes the second stage last long enough to be killed in its middle.
OVERRIDES = ("--stage2.num_steps=20", "--stage2.checkpoint_every=1")
SECONDS_FOR_A_JOB = 280


@dataclass(frozen=True)
class JobRun:
    """A job that ended."""

    folder: Path
    """the run folder"""
    code: int
    """exit code"""
    out: str
    """standard output"""
    err: str
    """standard error"""
    seconds: float
    """wall time"""

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    def rows(self, stage: str) -> list[dict[str, float]]:
        """The stage's metrics.jsonl."""
        (path,) = self.folder.glob(f"{stage}/*/metrics.jsonl")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def adapter(self, stage: str) -> dict[str, Any]:
        """Name -> tensor of the stage's memory and LoRA."""
        from safetensors.torch import load_file

        files = self.folder.glob(f"{stage}/*/adapter/**/adapter_model.safetensors")
        return {f"{file.parent.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def job_environment(**extra: str) -> dict[str, str]:
    """The test's environment with the virtual environment's commands first, and no Ray or MLflow address of the user's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", **extra}


def job_command(storage: Path, *overrides: str) -> list[str]:
    return [sys.executable, ENTRY, "--config", RECIPE, *OVERRIDES, f"--storage={storage}", *overrides]


def run_command(command: list[str], *, storage: Path, **environment: str) -> JobRun:
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=job_environment(**environment),
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_A_JOB,
        check=False,
    )
    return JobRun(storage / "smoke", done.returncode, done.stdout, done.stderr, time.monotonic() - started)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> JobRun:
    """One job on a local Ray of its own, from nothing to the end."""
    storage = tmp_path_factory.mktemp("undisturbed")
    run = run_command(job_command(storage), storage=storage)
    assert run.code == 0, run.out[-3000:] + run.err[-3000:]
    return run


@dataclass(frozen=True)
class Head:
    """A local Ray head."""

    pid: int
    """of `ray start --block`; everything of this cluster is below it or has its session folder"""
    address: str
    """for RAY_ADDRESS"""
    dashboard: str
    """for ray job submit"""
    folder: Path
    """its temp folder"""


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """A head with 2 CPUs on free ports; at the end only this process gets the signal, and takes its own with it."""
    # Unix sockets lie below it and their paths may have 107 characters: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="mv-", dir="/tmp"))
    port, dashboard = _free_port(), _free_port()
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=200000000",
        f"--temp-dir={folder}", "--disable-usage-stats", f"--ray-client-server-port={_free_port()}",
        f"--dashboard-agent-listen-port={_free_port()}",
    ]  # fmt: skip
    with open(folder / "head.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=job_environment(), stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(lambda: _answers(f"{url}/api/version"), what="the Ray head", seconds=90, process=process)
        yield Head(process.pid, f"127.0.0.1:{port}", url, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(
    condition: Callable[[], Any], *, what: str, seconds: float, process: subprocess.Popen[Any] | None = None
) -> Any:
    """The condition's first true value; fails when time is up or the process ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        assert process is None or process.poll() is None, f"the process ended while waiting for {what}"
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come in {seconds} s")
