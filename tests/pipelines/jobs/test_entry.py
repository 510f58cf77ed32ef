"""How an entry point ends when its process is asked to."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.jobs.command_line import read_arguments
from pipelines.jobs.entry import exit_code
from pipelines.jobs.kinds import INSTRUCT
from pipelines.tracking.job import job_tracking


def _ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_end_it_says_so_and_hands_the_signal_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(_ask_to_end) == 143
    assert capsys.readouterr().err == "terminated; closing what is open; run the same command again to continue\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_mlflow_knows_that_it_was_killed(storage: Path) -> None:
    config, _ = read_arguments(INSTRUCT, ["--config", "pipelines/recipes/smoke.yaml"])
    uri, seen = f"sqlite:///{storage / 'mlflow.db'}", list[Any]()

    def run() -> None:
        with job_tracking(config, uri=uri, storage=storage, folder=storage, console=Console()) as tracking:
            seen.append(tracking.tracker)
            _ask_to_end()

    assert exit_code(run) == 143
    assert seen[0].client.get_run(seen[0].parent_id).info.status == "KILLED"


def test_a_thread_runs_without_it() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(exit_code(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]
