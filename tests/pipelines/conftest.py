"""What the tests of the job share: a recipe as settings, and a smoke job's dotted overrides."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config import JobConfig
from pipelines.settings import read_job


@pytest.fixture
def recipe(repository: Path) -> Callable[..., JobConfig]:
    """`recipe("smoke", "--name=other")` -> settings."""

    def read(name: str, *overrides: str) -> JobConfig:
        return read_job(["--config", str(repository / f"pipelines/recipes/{name}.yaml"), *overrides])

    return read
