"""Runs entry points as a user does, as processes; and what a test needs to look at the job afterwards."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "pipelines/instruct_tune.py"
RECIPE = "pipelines/recipes/smoke.yaml"
IN_ONE_PROCESS, ON_TWO_WORKERS = "--launch.num_workers=0", "--launch.num_workers=2"
# Guards against hanging, ten times what an idle machine takes.
SECONDS_FOR_A_JOB, SECONDS_ON_RAY = 400, 800


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
    """The test's environment, our commands first on the path, without Ray or MLflow addresses of the user's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", **extra}


def job_command(storage: Path, *overrides: str) -> list[str]:
    return [sys.executable, ENTRY, "--config", RECIPE, f"--storage={storage}", *overrides]


def submit_command(dashboard: str, *job: str) -> list[str]:
    """Sends the repository to a Ray and runs `job` there, with the Python of the tests."""
    ray = str(Path(sys.executable).parent / "ray")
    return [ray, "job", "submit", "--address", dashboard, "--working-dir", ".", "--", sys.executable, *job]


def run_command(command: list[str], *, folder: Path, seconds: float = SECONDS_FOR_A_JOB, **environment: str) -> JobRun:
    """Run to the end; what it left is looked for in the run folder `folder`."""
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=job_environment(**environment),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return JobRun(folder, done.returncode, done.stdout, done.stderr, time.monotonic() - started)


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


def answers(url: str) -> bool:
    """The page is there."""
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
