"""MLflow's database file: made whole or not at all, and known when an earlier start left half of one.

MLflow makes its tables one by one in the file itself; killed meanwhile, or out of room, it can never open it again.
"""

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mlflow import MlflowClient

from pipelines.tracking.run_ids import SQLITE, database_path

_PREFIX = ".mlflow-"
_ABANDONED_SECONDS = 3600.0  # making the tables takes seconds
# What the second attempt at the same tables says.
_HALF_MADE = re.compile(
    r"duplicate column name|table \S+ already exists|no such (table|column|constraint)", re.IGNORECASE
)
_FULL = re.compile(r"database or disk is full|No space left on device|Disk quota exceeded")


def make_database(uri: str) -> None:
    """Make the file of an SQLite address if it is missing or empty, under another name until it is whole."""
    path = database_path(uri)
    if path is None:
        return
    _sweep(path.parent)
    if path.is_file() and path.stat().st_size:
        return
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=path.parent) as folder:
        made = Path(folder) / path.name
        MlflowClient(f"{SQLITE}{made}", f"{SQLITE}{made}").search_experiments(max_results=1)
        _put(made, path)


def _sweep(folder: Path) -> None:
    """Remove what starts that were killed meanwhile have left."""
    for left in folder.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):  # another start sweeps, too
            if left.is_dir() and time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _put(made: Path, path: Path) -> None:
    """Where another start has put one meanwhile, that one stays: its runs are in it."""
    if path.is_file() and not path.stat().st_size:
        os.replace(made, path)
        return
    try:
        os.link(made, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        os.replace(made, path)


def is_half_made(error: Exception, *, uri: str) -> bool:
    """Whether an error of opening the database says that its tables were made in part."""
    return database_path(uri) is not None and _HALF_MADE.search(str(error)) is not None


def is_full(error: Exception) -> bool:
    """Whether an error of making or opening the database says that there is no room for it."""
    return _FULL.search(str(error)) is not None
