"""Ray's record is put back when it is damaged, and no checkpoint that could be needed is cleared away."""

import json
from pathlib import Path

import pytest
import torch

from memvp_train.checkpoints.state import TrainingState, newest_first, write_state
from memvp_train.launch.ray_snapshot import SNAPSHOT, copy_snapshot, mend_snapshot

VERSION = "2.60.0"


def _checkpoint(folder: Path, step: int) -> str:
    name = f"step-{step:09d}-abcd"
    tensors = {"a": torch.ones(2)}
    write_state(TrainingState(step, tensors, tensors, tensors), folder / name)
    return name


def _record(folder: Path, *names: str) -> None:
    results = [{"checkpoint_dir_name": name} for name in names]
    (folder / SNAPSHOT).write_text(json.dumps({"ray_version": VERSION, "checkpoint_results": results}))


def _names(folder: Path) -> list[str]:
    return [path.name for path in newest_first(folder)]


@pytest.mark.faults
@pytest.mark.parametrize("content", ['{"ray_ver', "", "[]", '{"ray_version": "1.0", "checkpoint_results": []}', None])
def test_damaged_record_is_replaced_by_its_copy(tmp_path: Path, content: str | None) -> None:
    _record(tmp_path, _checkpoint(tmp_path, 10))
    sound = (tmp_path / SNAPSHOT).read_text()
    copy_snapshot(tmp_path, ray_version=VERSION)
    (tmp_path / SNAPSHOT).unlink() if content is None else (tmp_path / SNAPSHOT).write_text(content)
    copy_snapshot(tmp_path, ray_version=VERSION)  # a damaged record never becomes the copy
    mend_snapshot(tmp_path, ray_version=VERSION)
    assert (tmp_path / SNAPSHOT).read_text() == sound


def test_record_of_a_checkpoint_that_is_gone_is_removed(tmp_path: Path) -> None:
    _record(tmp_path, "step-000000010-gone")
    mend_snapshot(tmp_path, ray_version=VERSION)
    assert not (tmp_path / SNAPSHOT).exists()


def test_only_what_nothing_needs_is_cleared_away(tmp_path: Path) -> None:
    names = [_checkpoint(tmp_path, step) for step in (10, 20, 30, 40, 50)]
    _record(tmp_path, names[0])
    (tmp_path / names[4] / "state.json").unlink()  # an upload that was cut off
    mend_snapshot(tmp_path, ray_version=VERSION)
    assert _names(tmp_path) == [names[3], names[2], names[0]]
