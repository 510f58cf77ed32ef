"""Training state on disk: safetensors and a JSON with their hashes, whole and in fp32, so any world size reads it.

A folder is a checkpoint only if `state.json` is there and every file has the length and SHA-256 it names; it is
written last. A damaged checkpoint is passed over in favour of the one before it. Dropout needs no saved generator:
training/loop.py seeds it from (seed, step, rank).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memvp_core.config import present_names
from memvp_data.files.atomic import atomic_write, sync_folder
from memvp_data.files.hashing import hash_file
from memvp_train.checkpoints.disk import write_failed
from memvp_train.checkpoints.errors import CheckpointError as CheckpointError
from memvp_train.checkpoints.errors import DamageError as DamageError
from memvp_train.checkpoints.lease import Lease

SCHEMA_VERSION = 1
STATE_FILE = "state.json"
KEPT = 3
_TENSOR_FILES = {
    "weights": "weights.safetensors",
    "exp_avg": "exp_avg.safetensors",
    "exp_avg_sq": "exp_avg_sq.safetensors",
}


@dataclass(frozen=True)
class TrainingState:
    """Everything that training carries from one optimiser step to the next."""

    step: int
    """Optimiser steps done."""
    weights: dict[str, Tensor]
    """Trained parameters, fp32 (under bf16 the master copies)."""
    exp_avg: dict[str, Tensor]
    """Adam's first moments."""
    exp_avg_sq: dict[str, Tensor]
    """Adam's second moments."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the run was made from; a resume with other settings is refused."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What else training carries on: the loss scale of fp16, the best evaluation so far."""

    def check_names(self, expected: Iterable[str]) -> None:
        """Refuse a state that does not hold exactly the parameters `expected`."""
        expected, found = set(expected), set(self.weights)
        if expected != found:
            raise CheckpointError(
                f"the checkpoint holds {len(found)} trained tensors and the model has {len(expected)}; "
                f"missing {sorted(expected - found)[:3]}, unknown {sorted(found - expected)[:3]}"
            )


class CheckpointStore(Protocol):
    """Where checkpoints are kept. Every rank calls every method equally often; rank 0's state counts."""

    def candidates(self) -> list[Path]:
        """Folders that may hold a checkpoint, the one to try first in front."""
        ...

    def check(self) -> None:
        """Raise `LeaseError` if another job has taken over and this one must not write any more."""
        ...

    def wanted(self) -> bool:
        """Whether a checkpoint should be committed now though none is due; the same answer on every rank."""
        ...

    def commit(self, state: TrainingState) -> None:
        """Keep a state; returns when a restart would find it."""
        ...


def write_state(state: TrainingState, folder: Path, *, fence: int = 0) -> None:
    """Write a checkpoint into a folder that nobody reads yet; synced, `state.json` last.

    `fence` is the writer's number (lease.py), for whoever wants to know which launch a checkpoint is from. Raises
    `CheckpointError` with the space that is missing if the disk is full.
    """
    try:
        _write_files(state, folder, fence=fence)
    except (OSError, SafetensorError) as error:
        raise write_failed(error, folder=folder, num_parameters=num_parameters(state)) from error


def num_parameters(state: TrainingState) -> int:
    """Numbers that are trained."""
    return sum(tensor.numel() for tensor in state.weights.values())


def _write_files(state: TrainingState, folder: Path, *, fence: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, name in _TENSOR_FILES.items():
        tensors = {key: tensor.contiguous() for key, tensor in getattr(state, kind).items()}
        save_file(tensors, folder / name)
        _sync_file(folder / name)
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
    body = {"schema_version": SCHEMA_VERSION, "step": state.step, "files": files, "settings": state.settings}
    body["numbers"] = state.numbers
    body["fence"] = fence
    with atomic_write(folder / STATE_FILE) as file:
        file.write(json.dumps({**body, "digest": _digest(body)}, indent=1, sort_keys=True).encode())


def read_state(folder: Path) -> TrainingState:
    """Read and verify a checkpoint. Raises `DamageError` naming the fault, `CheckpointError` for another schema."""
    body = verify(folder)
    tensors = {}
    for kind, name in _TENSOR_FILES.items():
        try:
            tensors[kind] = load_file(folder / name)
        except SafetensorError as error:
            raise DamageError(f"checkpoint {folder}: {name} is no safetensors file ({error})") from error
    settings = present_settings(body["settings"])
    return TrainingState(step=body["step"], settings=settings, numbers=body.get("numbers", {}), **tensors)


def verify(folder: Path) -> dict[str, Any]:
    """What `state.json` says, after every file has been compared with it. Raises as `read_state` does."""
    body = _read_header(folder)
    for name, expected in body["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or hash_file(path) != expected["sha256"]:
            raise DamageError(f"checkpoint {folder}: {name} is missing or damaged")
    return body


def confirm(folder: Path) -> None:
    """Make a checkpoint that somebody else copied survive a power cut, and verify the copy."""
    for path in folder.iterdir():
        _sync_file(path)
    sync_folder(folder)
    sync_folder(folder.parent)
    verify(folder)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        body = json.loads((folder / STATE_FILE).read_bytes())
        is_sound = body.pop("digest") == _digest(body)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamageError(f"checkpoint {folder}: {STATE_FILE} is missing or damaged") from error
    if not is_sound:
        raise DamageError(f"checkpoint {folder}: {STATE_FILE} is damaged")
    if body["schema_version"] != SCHEMA_VERSION:
        raise CheckpointError(
            f"checkpoint {folder} has schema {body['schema_version']}, this version reads {SCHEMA_VERSION}; "
            "continue it with the version of memvp-train that wrote it"
        )
    return body


def load_newest(
    candidates: Iterable[Path], *, settings: Mapping[str, Any], on_damage: Callable[[str], None] = lambda message: None
) -> TrainingState | None:
    """The first sound checkpoint, None if there is none. Raises `CheckpointError` if it is of another run or schema."""
    for folder in candidates:
        try:
            state = read_state(folder)
        except DamageError as error:
            on_damage(str(error))
            continue
        check_settings(state.settings, settings=settings, folder=folder)
        return state
    return None


def present_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stage as they were saved, under the names that they have now."""
    return {**saved, "memvp": present_names(saved["memvp"])} if "memvp" in saved else dict(saved)


def check_settings(saved: Mapping[str, Any], *, settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a run under other settings; names what differs."""
    saved_flat, flat = _flatten(saved), _flatten(json.loads(json.dumps(dict(settings))))
    keys = sorted(key for key in saved_flat.keys() | flat.keys() if saved_flat.get(key) != flat.get(key))
    if keys:
        changes = ", ".join(f"{key} {saved_flat.get(key)!r} -> {flat.get(key)!r}" for key in keys[:3])
        raise CheckpointError(
            f"{folder} was made with other settings ({changes}); restore them or train into another folder"
        )


def _flatten(value: Any, *, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    parts = (_flatten(item, prefix=f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


class FolderCheckpoints:
    """Checkpoints of one process in a folder `step-<n>` each, the newest `keep` of them.

    Three are kept: with any one of them damaged, two are still sound.
    """

    def __init__(self, folder: Path, *, keep: int = KEPT, lease: Lease | None = None) -> None:
        self._folder, self._keep, self._lease = folder, keep, lease

    def candidates(self) -> list[Path]:
        return newest_first(self._folder)

    def check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def wanted(self) -> bool:
        return False

    def commit(self, state: TrainingState) -> None:
        final = self._folder / f"step-{state.step:09d}"
        temporary = self._folder / f".tmp-{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
        try:
            write_state(state, temporary, fence=0 if self._lease is None else self._lease.number)
        except CheckpointError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.check()
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(self._folder)
        for old in newest_first(self._folder)[self._keep :]:
            shutil.rmtree(old)


def newest_first(folder: Path) -> list[Path]:
    """Folders `step-<number>...` below `folder`, the highest step in front."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), key=lambda path: path.name, reverse=True)


def newest_step(folder: Path) -> int:
    """Steps of the newest checkpoint by its name, 0 without one."""
    return next((int(path.name.split("-")[1]) for path in newest_first(folder)), 0)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was written to its end, without hashing its tensors."""
    try:
        _read_header(folder)
    except CheckpointError:
        return False
    return True
