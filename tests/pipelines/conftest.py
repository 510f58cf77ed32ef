"""What the tests of the job share: a recipe as settings, and an MLflow database that need not be made each time."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.config import JobConfig, TrackingConfig
from pipelines.settings import read_job
from pipelines.tracking import open_tracker


@pytest.fixture
def recipe(repository: Path) -> Callable[..., JobConfig]:
    """`recipe("smoke", "--name=other")` -> settings."""

    def read(name: str, *overrides: str) -> JobConfig:
        return read_job(["--config", str(repository / f"pipelines/recipes/{name}.yaml"), *overrides])

    return read


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without experiments' runs; making its tables takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_tracker(
        TrackingConfig(experiment="unused"), uri=f"sqlite:///{path}", storage=path.parent, run_folder=path.parent,
        key="unused", console=Console(),
    )  # fmt: skip
    return path
