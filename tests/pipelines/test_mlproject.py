"""The MLproject has an entry point for every script, and each of its commands is one that the script takes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.projects.utils import load_project

from pipelines.jobs import kinds
from pipelines.jobs.command_line import read_settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = load_project(str(ROOT))
KINDS = {"instruct_tune": kinds.INSTRUCT, "finetune": kinds.FINETUNE, "evaluate": kinds.COMPARISON}


def command(entry: str, /, **parameters: str) -> list[str]:
    return shlex.split(PROJECT.get_entry_point(entry).compute_command(parameters, storage_dir=None))


def test_every_script_has_its_entry_point() -> None:
    scripts = {path.stem for path in (ROOT / "pipelines").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(PROJECT._entry_points) == scripts | {"main"}
    assert command("main") == command("instruct_tune")


@pytest.mark.parametrize("name", PROJECT._entry_points)
def test_command_runs_a_script_on_a_recipe_that_exists(name: str) -> None:
    python, script, option, recipe, *_ = command(name)
    assert (python, option) == ("python", "--config")
    assert (ROOT / script).is_file()
    assert (ROOT / recipe).is_file()


@pytest.mark.parametrize("name", KINDS)
def test_further_parameters_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = command(name, name="other", **{"launch.num_workers": "4"})[2:]
    settings = read_settings(KINDS[name], arguments)
    assert (settings.name, settings.launch.num_workers) == ("other", 4)


@pytest.mark.slow
def test_mlflow_runs_the_project(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "mlflow"), "run", ".", "--env-manager=local",
            "-P", "config=pipelines/recipes/smoke.yaml", "-P", f"storage={tmp_path / 'runs'}",
            "-P", "launch.num_workers=0",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
        env={
            **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "RAY_AUTH_MODE": "disabled",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"version 1 of memvp: the new champion", done.stdout)
    assert (tmp_path / "runs/smoke/report.html").is_file()
