"""A disk without room is a sentence with path and need, before training or in it, and costs no checkpoint."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints import disk
from memvp_train.checkpoints.state import CheckpointError, FolderCheckpoints, TrainingState, newest_first, newest_step
from memvp_train.config import LaunchConfig
from memvp_train.training.stage import run_stage

pytestmark = pytest.mark.faults

TENSORS = {"a": torch.ones(4096)}


@contextmanager
def no_file_longer_than(limit: int) -> Iterator[None]:
    """Writing beyond it fails as on a full disk; SIGXFSZ is ignored by Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def commit(store: FolderCheckpoints, *, step: int) -> None:
    store.commit(TrainingState(step, TENSORS, TENSORS, TENSORS))


@pytest.mark.parametrize("limit", [0, 1000, 16384])
def test_full_disk_in_a_commit_is_a_sentence_and_the_last_checkpoint_stays(tmp_path: Path, limit: int) -> None:
    store = FolderCheckpoints(tmp_path)
    commit(store, step=1)
    commit(store, step=2)
    with pytest.raises(CheckpointError) as caught, no_file_longer_than(limit):
        commit(store, step=3)
    sentence = str(caught.value)
    assert "a checkpoint of 0.1 MB could not be written to" in sentence
    assert "File too large" in sentence
    assert "run the same command again" in sentence
    assert "\n" not in sentence
    assert newest_step(tmp_path) == 2
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir()), "leftovers take up the room"
    assert len(newest_first(tmp_path)) == 2


def test_disk_with_just_enough_room_takes_the_commit(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    with no_file_longer_than(16500):
        for step in (1, 2, 3):
            commit(store, step=step)
    assert newest_step(tmp_path) == 3
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


def test_stage_without_room_is_refused_before_it_starts(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match=rf"{tmp_path} has 0.1 MB free and two checkpoints need 0\.\d MB"):
        run_stage(tiny.run(tmp_path), LaunchConfig(num_workers=0))
    assert not (tmp_path / "checkpoints").exists()
