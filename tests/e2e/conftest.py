"""One undisturbed job for all end-to-end tests, and a Ray head that is a process of its own."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.e2e_jobs import (
    IN_ONE_PROCESS,
    Head,
    JobRun,
    answers,
    job_command,
    job_environment,
    run_command,
    wait_for,
)
from tests.ports import free_port


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> JobRun:
    """One job in one process, from nothing to the end."""
    storage = tmp_path_factory.mktemp("undisturbed")
    run = run_command(job_command(storage, IN_ONE_PROCESS), folder=storage / "smoke")
    assert run.code == 0, run.out[-3000:] + run.err[-3000:]
    return run


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """A head with 2 CPUs on free ports; at the end only this process gets the signal, and takes its own with it."""
    # Unix sockets lie below it and their paths may have 107 characters: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="mv-", dir="/tmp"))
    port, dashboard = free_port(), free_port()
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--object-store-memory=200000000",
        f"--temp-dir={folder}", "--disable-usage-stats", f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    with open(folder / "head.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=job_environment(), stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(lambda: answers(f"{url}/api/version"), what="the Ray head", seconds=300, process=process)
        yield Head(process.pid, f"127.0.0.1:{port}", url, folder)
    finally:
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        # Ray itself would wait half a minute for workers whose driver a test has killed.
        for left in psutil.wait_procs(below, timeout=5)[1]:
            left.kill()
        process.wait(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
