"""A disk without room is a sentence with path and need, before training or in it, and costs no checkpoint."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memvp_train.checkpoints import disk
from memvp_train.checkpoints.state import CheckpointError, newest_first, newest_step
from memvp_train.config import LaunchConfig
from memvp_train.training.stage import run_stage

pytestmark = pytest.mark.faults

# The third write of a file longer than the limit fails as on a full disk; SIGXFSZ is ignored by Python.
FULL = """
import resource, sys
from pathlib import Path
import torch
from memvp_train.checkpoints.state import CheckpointError, FolderCheckpoints, TrainingState

store = FolderCheckpoints(Path(sys.argv[1]))
tensors = {"a": torch.ones(4096)}
for step in (1, 2):
    store.commit(TrainingState(step, tensors, tensors, tensors))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    store.commit(TrainingState(3, tensors, tensors, tensors))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1000, 16384, 16500])
def test_full_disk_in_a_commit_is_a_sentence_and_the_last_checkpoint_stays(tmp_path: Path, limit: int) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if limit < 16500:
        assert "a checkpoint of 0.1 MB could not be written to" in output
        assert "File too large" in output
        assert "run the same command again" in output
    assert output.count("\n") == (limit < 16500)
    assert newest_step(tmp_path) == (2 if limit < 16500 else 3)
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir()), "leftovers take up the room"
    assert len(newest_first(tmp_path)) == (2 if limit < 16500 else 3)


def test_stage_without_room_is_refused_before_it_starts(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match=rf"{tmp_path} has 0.1 MB free and two checkpoints need 0\.\d MB"):
        run_stage(tiny.run(tmp_path), LaunchConfig(num_workers=0))
    assert not (tmp_path / "checkpoints").exists()
