"""Ray Train's own record of checkpoints, `checkpoint_manager_snapshot.json`, which it does not write atomically.

With a damaged record Ray refuses to start, with a missing one it starts its books anew. So a sound copy is kept after
every commit and put back before a run. Which checkpoint training continues from does not depend on it:
checkpoints/state.py finds them by their own hashes.
"""

import json
import shutil
from pathlib import Path

from memvp_data.files.atomic import atomic_write
from memvp_train.checkpoints.state import STATE_FILE, is_whole, newest_first

SNAPSHOT, COPY = "checkpoint_manager_snapshot.json", "checkpoint_manager_snapshot.copy.json"
_KEPT_UNNAMED = 2


def copy_snapshot(run_folder: Path, *, ray_version: str) -> None:
    """After a commit: keep a copy of the record, if it is sound."""
    snapshot = run_folder / SNAPSHOT
    if _is_sound(snapshot, ray_version=ray_version):
        with atomic_write(run_folder / COPY) as file:
            file.write(snapshot.read_bytes())


def mend_snapshot(run_folder: Path, *, ray_version: str) -> None:
    """Before a run: replace a damaged record by its sound copy or remove it, then clear away what no record names.

    Of whole checkpoints without a record the newest two stay, to continue from.
    """
    snapshot, copy = run_folder / SNAPSHOT, run_folder / COPY
    if not _is_sound(snapshot, ray_version=ray_version):
        snapshot.unlink(missing_ok=True)
        if _is_sound(copy, ray_version=ray_version):
            shutil.copy(copy, snapshot)
    named = _named_checkpoints(snapshot) if snapshot.is_file() else set[str]()
    unnamed = [folder for folder in newest_first(run_folder) if folder.name not in named]
    kept = [folder for folder in unnamed if is_whole(folder)][:_KEPT_UNNAMED]
    for folder in unnamed:
        if folder not in kept:
            shutil.rmtree(folder)


def clear_cut_off(run_folder: Path) -> None:
    """Remove uploads that a killed run never ended: they have no `state.json` and no record of Ray's names them."""
    records = [run_folder / name for name in (SNAPSHOT, COPY)]
    named = "".join(record.read_text(errors="replace") for record in records if record.is_file())
    for folder in newest_first(run_folder):
        if folder.name not in named and not (folder / STATE_FILE).exists():
            shutil.rmtree(folder)


def _is_sound(snapshot: Path, *, ray_version: str) -> bool:
    """Whether this Ray can continue from it: whole, of this version, and every checkpoint it names is there."""
    try:
        same_version = json.loads(snapshot.read_bytes())["ray_version"] == ray_version
        return same_version and all((snapshot.parent / name).is_dir() for name in _named_checkpoints(snapshot))
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _named_checkpoints(snapshot: Path) -> set[str]:
    return {result["checkpoint_dir_name"] for result in json.loads(snapshot.read_bytes())["checkpoint_results"]}
