"""Files damaged and disks filled under a stage: the checkpoint before is used, and the end is that of a quiet run."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints.quarantine import quarantined
from memvp_train.checkpoints.state import CheckpointError, newest_first, read_state, verify
from memvp_train.config import LaunchConfig, LoraSettings
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.result import RESULT_FILE
from memvp_train.training.stage import run_stage

pytestmark = [pytest.mark.faults, pytest.mark.slow]

HERE = LaunchConfig(num_workers=0)
STEPS, EVERY = 20, 5


def _run(tiny: Any, out: Path) -> Any:
    lora = LoraSettings(rank=2, dropout=0.1)
    return tiny.run(out, lora=lora, num_steps=STEPS, checkpoint_every=EVERY, log_every=1)


@pytest.fixture(scope="module")
def quiet(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quiet") / "out"
    run_stage(_run(tiny, out), HERE)
    return out


def _assert_same(out: Path, quiet: Path) -> None:
    ends = [read_state(newest_first(folder / "checkpoints")[0]) for folder in (out, quiet)]
    assert [state.step for state in ends] == [STEPS, STEPS]
    torch.testing.assert_close(ends[0].weights, ends[1].weights, rtol=0, atol=0)
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == list(range(1, STEPS + 1))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_any_one_file_of_a_checkpoint_damaged(
    tiny: Any, tmp_path: Path, quiet: Path, fault_row: Callable[..., None]
) -> None:
    out, times = tmp_path / "out", 0
    for file in sorted(path.name for path in newest_first(quiet / "checkpoints")[0].iterdir()):
        for damage in (_cut, _flip, None):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(quiet, out)
            (out / RESULT_FILE).unlink()
            path = newest_first(out / "checkpoints")[0] / file
            path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
            # The copy is another folder, but the settings say what is in folders, not where they are.
            result = run_stage(_run(tiny, out), HERE)
            assert result.num_quarantined == 1
            assert file in quarantined(out / "checkpoints")[0]["reason"]
            sound = newest_first(out / "checkpoints")
            assert len([verify(folder) for folder in sound]) >= 2
            _assert_same(out, quiet)
            times += 1
    fault_row(
        goal="R10",
        fault="one file of a checkpoint damaged",
        what_was_done="each file of the newest checkpoint cut, one bit flipped, removed",
        times=times,
        result=f"put aside and reported every time; went on from step {STEPS - EVERY}, weights bit-equal",
        figure="at least 2 sound checkpoints kept",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_that_fills_up_while_training(
    tiny: Any, small_disk: Path, quiet: Path, fault_row: Callable[..., None]
) -> None:
    out, filler = small_disk / "out", small_disk / "filler"

    def fill(row: dict[str, float]) -> None:
        """Leave room for the metrics, which are short, and for half a checkpoint."""
        if row["step"] >= EVERY and not filler.exists():
            filler.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - 24_576)))

    run = _run(tiny, out)
    long = replace(run, stage=replace(run.stage, num_steps=4000, checkpoint_every=EVERY))
    with pytest.raises((CheckpointError, OSError), match="No space left on device") as caught:
        run_stage(long, HERE, on_step=fill)
    assert str(out) in str(caught.value)
    sound = newest_first(out / "checkpoints")
    assert sound
    assert [verify(folder)["step"] for folder in sound] == [int(folder.name[-9:]) for folder in sound]
    filler.unlink()
    shutil.rmtree(out)
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 50_000))
    with pytest.raises(CheckpointError, match=f"{out} has .* free and two checkpoints need"):
        run_stage(run, HERE)
    filler.unlink()
    run_stage(run, HERE)
    _assert_same(out, quiet)
    fault_row(
        goal="R16",
        fault="file system full",
        what_was_done="a file system of 600 kB filled while training, and before it",
        times=2,
        result="a sentence with path and need, every checkpoint sound; with room again it ends bit-equal",
        figure=f"checkpoints left, all sound: {len(sound)}",
    )
