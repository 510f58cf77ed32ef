"""Room for checkpoints: asked for before training, and a write that failed said in one sentence."""

import shutil
from pathlib import Path

from memvp_train.checkpoints.errors import CheckpointError

_BYTES_PER_PARAMETER = 12  # fp32 weights and two moments
_HEADERS = 1 << 16
_CHECKPOINTS_THAT_FIT = 2


def checkpoint_bytes(num_parameters: int) -> int:
    """Length of a checkpoint of so many trained numbers, headers included."""
    return _BYTES_PER_PARAMETER * num_parameters + _HEADERS


def check_room(folder: Path, *, num_parameters: int) -> None:
    """Raise `CheckpointError` unless two checkpoints fit below `folder`, which must exist."""
    needed, free = _CHECKPOINTS_THAT_FIT * checkpoint_bytes(num_parameters), shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder} has {_megabytes(free)} free and two checkpoints need {_megabytes(needed)}; "
            "make room there or train into another folder"
        )


def write_failed(error: Exception, *, folder: Path, num_parameters: int) -> CheckpointError:
    """What to raise when a checkpoint could not be written below `folder`."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"a checkpoint of {_megabytes(checkpoint_bytes(num_parameters))} could not be written to {folder} ({reason}; "
        f"{_free(folder)} free); the one before it is whole: make room there and run the same command again"
    )


def _free(folder: Path) -> str:
    existing = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    return "unknown space" if existing is None else _megabytes(shutil.disk_usage(existing).free)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
