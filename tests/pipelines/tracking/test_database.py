"""MLflow's database appears whole; one that an earlier start left half-made is told with what mends it."""

import errno
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from pipelines.config.tracking import TrackingConfig
from pipelines.tracking.database import make_database
from pipelines.tracking.opening import open_tracker
from pipelines.tracking.run_ids import database_path, database_state
from pipelines.tracking.sending import TrackingError


def _open(storage: Path) -> None:
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    settings = {"storage": storage, "run_folder": storage, "key": "k", "console": Console()}
    open_tracker(TrackingConfig(experiment="x"), uri=uri, **settings)


@pytest.mark.faults
def test_a_start_that_is_killed_meanwhile_ruins_nothing(tmp_path: Path) -> None:
    code = f"from pipelines.tracking.database import make_database; make_database('sqlite:///{tmp_path}/mlflow.db')"
    making = subprocess.Popen([sys.executable, "-c", code])
    while not list(tmp_path.glob(".mlflow-*/mlflow.db")):
        assert making.poll() is None
        time.sleep(0.01)
    making.kill()
    making.wait()
    assert not (tmp_path / "mlflow.db").exists()
    _open(tmp_path)


def test_an_empty_file_is_filled_and_a_database_is_kept(tmp_path: Path, empty_database: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()
    make_database(f"sqlite:///{path}")
    tables = sqlite3.connect(path).execute("select name from sqlite_master where name = 'experiments'").fetchall()
    assert tables == [("experiments",)]
    inode = path.stat().st_ino
    make_database(f"sqlite:///{path}")
    assert path.stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]


def test_settings_behind_the_file_are_not_part_of_its_name(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=30"
    make_database(uri)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]
    assert database_state(uri) == database_state(uri.partition("?")[0])
    assert database_path("sqlite:///:memory:") is None


@pytest.mark.parametrize("was_tracked", [False, True])
def test_a_half_made_one_is_told_with_what_mends_it(tmp_path: Path, was_tracked: bool) -> None:
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute("create table metrics (key varchar(250), value float)")
    database.commit()
    database.close()
    if was_tracked:
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        (tmp_path / "mlflow.json").write_text(f'{{"{uri}": {{"runs": {{"k": "0"}}}}}}')
    with pytest.raises(TrackingError, match=r"mlflow\.db was left half-made by a start .*; move it away"):
        _open(tmp_path)


def _fill_a_page(*addresses: str) -> NoReturn:
    """SQLite's own error of a full disk."""
    database = sqlite3.connect(":memory:")
    database.execute("pragma max_page_count = 1")
    database.execute("create table experiments (name varchar(250))")
    raise AssertionError("there was room")


def _no_space(*, prefix: str, dir: Path) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(dir))


@pytest.mark.parametrize(
    "place", [("MlflowClient", _fill_a_page), ("tempfile.TemporaryDirectory", _no_space)], ids=["tables", "folder"]
)
def test_no_room_to_make_one_is_told_with_what_mends_it(
    tmp_path: Path, place: tuple[str, Callable[..., NoReturn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"pipelines.tracking.database.{place[0]}", place[1])
    with pytest.raises(TrackingError, match=r"mlflow\.db \(.*\); free some room on that disk and run the same command"):
        _open(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_killed_starts_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("whole")
    for name, age in ((".mlflow-old", 7200), (".mlflow-new", 0)):
        (tmp_path / name).mkdir()
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    make_database(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {entry.name for entry in tmp_path.iterdir()} == {"mlflow.db", ".mlflow-new"}
