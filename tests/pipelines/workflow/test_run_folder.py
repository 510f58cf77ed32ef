"""Where a run lives, and that only one job writes it."""

import subprocess
import sys
from pathlib import Path

import pytest

from memvp_train.checkpoints.lease import LeaseError
from pipelines.workflow.run_folder import StorageError, make_run_folder, read_json, run_lock, storage_folder, write_json

JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("/a", {"MEMVP_STORAGE": "/b"}, "/a"),
        (None, {"MEMVP_STORAGE": "/b"}, "/b"),
        (None, {}, "{cwd}/runs"),
        ("here", {}, "{cwd}/here"),
        (None, {"MEMVP_STORAGE": "there"}, "{cwd}/there"),
        ("/a", JOB, "/a"),
        (None, JOB, "{home}/memvp/runs"),
        ("here", JOB, "{home}/memvp/here"),
        ("here", JOB | {"MEMVP_STORAGE": "/b"}, "/b/here"),
        (None, JOB | {"MEMVP_STORAGE": "/b"}, "/b"),
    ],
)
def test_storage_rule(setting: str | None, environment: dict[str, str], expected: str) -> None:
    folder = storage_folder(setting, environment=environment)
    assert str(folder) == expected.format(cwd=Path.cwd(), home=Path.home())


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write to the storage folder .*file.* --storage"):
        make_run_folder(tmp_path / "file", name="run")


def test_second_job_is_refused_and_told_whose_run_it_is(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(LeaseError, match=r"another job is writing .*pid \d+ on"),
        run_lock(tmp_path),
    ):
        pass


def test_lease_of_a_killed_job_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from pipelines.workflow.run_folder import run_lock\n"
        f"with run_lock(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with run_lock(tmp_path):
        pass


def test_torn_json_counts_as_missing(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    (tmp_path / "a.json").write_text('{"x": ')
    assert read_json(tmp_path / "a.json") is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
