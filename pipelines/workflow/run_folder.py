"""Where a run lives, and the lease that keeps two jobs from writing the same run."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from memvp_data.files.atomic import atomic_write
from memvp_train.checkpoints.lease import Lease, hold_lease

# Set by Ray's job manager in the entry point of `ray job submit`, and nowhere else.
_RAY_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class StorageError(ValueError):
    """The storage folder cannot be used."""


def storage_folder(setting: str | None, *, environment: Mapping[str, str]) -> Path:
    """The absolute folder of all runs: the setting, else $MEMVP_STORAGE, else ./runs.

    Inside a submitted Ray job the working directory is a throw-away copy, so there a relative path is taken below
    $MEMVP_STORAGE, else ~/memvp: the job submitted again finds its work.
    """
    variable = environment.get("MEMVP_STORAGE")
    chosen = Path(setting or variable or "runs").expanduser()
    if chosen.is_absolute():
        return chosen
    if _RAY_JOB_MARK not in environment:
        return Path.cwd() / chosen
    base = Path(variable).expanduser() if setting and variable else Path("~/memvp").expanduser()
    if not base.is_absolute():
        raise StorageError(f"inside a Ray job $MEMVP_STORAGE must be an absolute path, got {variable!r}")
    return base / chosen


def make_run_folder(storage: Path, *, name: str) -> Path:
    """Create <storage>/<name>; StorageError where that cannot be written."""
    folder = storage / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write to the storage folder {folder} ({error.strerror}); choose another one with --storage"
        ) from error
    return folder


def run_lock(folder: Path) -> AbstractContextManager[Lease]:
    """Be the one job that writes the run. LeaseError names the job that is, and when a dead one can be replaced."""
    return hold_lease(folder, doing="writing")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically and durably: a reader sees the old file or the new one."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The file's content; None where it is missing or not JSON (a torn file of an older crash counts as missing)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
