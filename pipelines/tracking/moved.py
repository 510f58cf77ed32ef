"""A storage folder that was moved or copied: MLflow's database in it names every artifact by its absolute address.

MLflow has no command that changes them: `python -m pipelines.tracking.moved STORAGE` does.
"""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.config.errors import RecipeError
from pipelines.tracking.run_ids import database_path

ARTIFACTS = "mlflow-artifacts"
"""Folder below the storage, beside its database."""
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
_FOLDERS = (("logged_model_tags", "tag_value"),)
_CHANGE = """UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1)
    WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'"""


def check_not_moved(uri: str, *, storage: Path) -> None:
    """Refuse a database in the storage folder whose artifacts would be looked for, and written, elsewhere.

    Raises:
        RecipeError: naming where they were, and the command that mends it.
    """
    path = database_path(uri)
    if path is None or not path.is_file() or path.resolve().parent != storage.resolve():
        return
    with closing(sqlite3.connect(path)) as database:
        for former in _former_storages(database, storage=storage):
            raise RecipeError(
                f"the storage {storage} was at {former} when MLflow's database in it was made, and the models that the "
                f"database names would be looked for there; run python -m pipelines.tracking.moved {storage} once, "
                "and the same command again"
            )


def adopt(path: Path, *, storage: Path) -> int:
    """Let the database at `path` name what lies in `storage` now; returns how many addresses that changed."""
    storage, changed = storage.resolve(), 0
    with closing(sqlite3.connect(path)) as database, database:
        for former in list(_former_storages(database, storage=storage)):
            moves = [(*place, former / ARTIFACTS, storage / ARTIFACTS) for place in _ADDRESSES]
            for table, column, old, new in moves:
                changed += _change(database, table, column, old=old.as_uri(), new=new.as_uri())
            for table, column in _FOLDERS:
                changed += _change(database, table, column, old=str(former), new=str(storage))
    return changed


def _former_storages(database: sqlite3.Connection, *, storage: Path) -> Iterator[Path]:
    """Folders other than this one that the experiments of jobs keep their artifacts in."""
    try:
        rows = database.execute("SELECT DISTINCT artifact_location FROM experiments ORDER BY 1").fetchall()
    except sqlite3.Error:  # not MLflow's, or not whole: whoever opens it says so
        return
    for address in (urlsplit(row[0] or "") for row in rows):
        artifacts = Path(unquote(address.path))
        is_ours = address.scheme == "file" and artifacts.name == ARTIFACTS
        if is_ours and artifacts.parent.resolve() != storage.resolve() and not _are_same(artifacts.parent, storage):
            yield artifacts.parent


def _are_same(first: Path, second: Path) -> bool:
    """By another name: a link, a mount."""
    return first.exists() and second.exists() and first.samefile(second)


def _change(database: sqlite3.Connection, table: str, column: str, *, old: str, new: str) -> int:
    return database.execute(_CHANGE.format(table=table, column=column), {"old": old, "new": new}).rowcount


def main(arguments: list[str]) -> int:
    """`STORAGE` -> exit code."""
    path = Path(*arguments[:1]) / "mlflow.db"
    if len(arguments) != 1 or not path.is_file():
        print("usage: python -m pipelines.tracking.moved STORAGE (a folder with mlflow.db in it)", file=sys.stderr)
        return 2
    print(f"{adopt(path, storage=path.parent)} addresses changed in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
