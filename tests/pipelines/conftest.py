"""What the tests of the job share: a recipe as settings, and an MLflow database that need not be made each time."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.config.instruct import JobConfig
from pipelines.config.tracking import TrackingConfig
from pipelines.jobs.command_line import read_settings
from pipelines.jobs.kinds import INSTRUCT
from pipelines.tracking.database import make_database
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.opening import open_tracker


@pytest.fixture
def recipe(repository: Path) -> Callable[..., JobConfig]:
    """`recipe("smoke", "--name=other")` -> settings."""

    def read(name: str, *overrides: str) -> JobConfig:
        return read_settings(INSTRUCT, ["--config", str(repository / f"pipelines/recipes/{name}.yaml"), *overrides])

    return read


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without experiments' runs; making its tables takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def storage(empty_database: Path, tmp_path: Path) -> Path:
    """A storage folder with that database, and no run ids on disk."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def submit(storage: Path) -> Callable[..., Tracker]:
    """`submit(key="k")`: one submission of a job with this key, up to its open parent run."""

    def begin(*, key: str = "k") -> Tracker:
        uri = f"sqlite:///{storage / 'mlflow.db'}"
        console = Console(record=True, width=200)
        tracker = open_tracker(TrackingConfig(), uri=uri, storage=storage, run_folder=storage, key=key, console=console)
        tracker.open_parent(name="job", settings={"stage1.seed": 0}, text="stage1: {seed: 0}\n")
        return tracker

    return begin
