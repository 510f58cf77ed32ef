"""A folder of official files for each test that asks for one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.datasets.official import WRITERS
from tests.data.datasets.put_files import change_json


@pytest.fixture
def official(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the files of a dataset and returns their folder."""

    def write(name: str) -> Path:
        WRITERS[name](tmp_path)
        return tmp_path

    return write


@pytest.fixture
def changed(official: Callable[[str], Path]) -> Callable[..., Path]:
    """Writes the files of a dataset, with one value of one JSON file changed: `file`, `at` (keys and places), `to`."""

    def write(name: str, *, file: str, at: tuple[Any, ...], to: Any) -> Path:
        root = official(name)
        change_json(root / file, at=at, to=to)
        return root

    return write
