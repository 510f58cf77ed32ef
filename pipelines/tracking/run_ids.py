"""Which MLflow runs and models belong to a run folder: `mlflow.json`, so that a job submitted again finds its own."""

from pathlib import Path

from pipelines.console.redaction import redacted
from pipelines.workflow.run_folder import read_json, write_json

SQLITE = "sqlite:///"
_SQLITE_HEADER = 100


class RunIds:
    """What is known of one tracking address, in groups: "experiments", "runs", "children", "models", "complete",
    "reports", "databases". Written through at once."""

    def __init__(self, path: Path, *, uri: str) -> None:
        self._path = path
        self._uri = uri

    def group(self, name: str) -> dict[str, str]:
        """Key -> id of one group; empty if there is none."""
        return (read_json(self._path) or {}).get(self._uri, {}).get(name, {})

    def get(self, group: str, key: str) -> str | None:
        """One id."""
        return self.group(group).get(key)

    def is_complete(self, parent_id: str, key: str) -> bool:
        """This parent has a child for the step key, and all of it was sent."""
        return self.get("children", f"{parent_id}/{key}") in self.group("complete")

    def remember(self, group: str, key: str, value: str) -> None:
        """Write one id down; durable when this returns."""
        ids = read_json(self._path) or {}
        ids.setdefault(self._uri, {}).setdefault(group, {})[key] = value
        write_json(self._path, ids)


def was_tracked(run_folder: Path, *, uri: str) -> bool:
    """An earlier submission of this run reached MLflow at this address, so that it is right even if nothing answers."""
    return bool(run_ids(run_folder, uri=uri).group("runs"))


def run_ids(run_folder: Path, *, uri: str) -> RunIds:
    """The ids of a run at an address."""
    return RunIds(run_folder / "mlflow.json", uri=redacted(uri))


def database_path(uri: str) -> Path | None:
    """The file of an SQLite address, whatever settings follow it; None for a server, or a database in memory."""
    if not uri.startswith(SQLITE) or ":memory:" in uri:
        return None
    return Path(uri.removeprefix(SQLITE).partition("?")[0])


def database_state(uri: str) -> str | None:
    """What any write to an SQLite database changes, its counter of changes included; None for a server."""
    path = database_path(uri)
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        header = file.read(_SQLITE_HEADER)
    files = [path, *(file for file in [path.with_name(f"{path.name}-wal")] if file.is_file())]
    return ":".join([header.hex(), *(f"{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)])
