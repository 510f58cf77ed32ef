"""A failing sample names its id: where a loss is not finite, and where a micro-batch raises."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memvp_data.features import feature_record
from memvp_data.shards import write_shards
from memvp_train.checkpoints.state import FolderCheckpoints
from memvp_train.config import LaunchConfig, StageRun
from memvp_train.training import loop
from memvp_train.training.failures import named, suspects
from memvp_train.training.loop import BatchError, TrainingError
from memvp_train.training.worker import train_here
from tests.train.conftest import NUM_ROWS, WIDTH, image_names
from tests.train.plans import plan_of

NUM_RANKS = 3


def _train(run: StageRun) -> None:
    plan = plan_of(run, LaunchConfig(num_workers=0))
    train_here(plan, checkpoints=FolderCheckpoints(Path(run.out) / "checkpoints"))


def _with_a_bad_image(run: StageRun, folder: Path, *, name: str) -> StageRun:
    """Its features are finite, as they must be, and their products are not."""
    values = {image: torch.zeros(NUM_ROWS, WIDTH) for image in image_names()}
    values[name] = torch.full((NUM_ROWS, WIDTH), 3e38)
    records = ((image, {"safetensors": feature_record(value)}) for image, value in values.items())
    write_shards(folder, records, kind="features", max_shard_samples=10)
    return replace(run, features=str(folder))


def test_loss_that_is_not_finite_names_the_samples_behind_it(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "out", micro_batch_size=1)
    run = _with_a_bad_image(run, tmp_path / "features", name="image-05")
    said = (
        r"loss is nan at step [123], with samples sample-05; (the last checkpoint|the untrained memory made the loss "
    )
    said += r"nan already, and it is \d\.\d+ without: look at the features)"
    with pytest.raises(TrainingError, match=said):
        _train(run)


@pytest.mark.parametrize(("raised", "seen"), [(RuntimeError, BatchError), (ValueError, TrainingError)])
def test_micro_batch_that_raises_names_its_samples(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception], seen: type[Exception]
) -> None:
    def fail(*args: Any, **settings: Any) -> Tensor:
        raise raised("no room")

    monkeypatch.setattr(loop, "micro_batch_loss", fail)
    # Only what may be gone at the next try is tried again: a ValueError is not.
    with pytest.raises(seen, match=r"step 1 failed on samples sample-\d\d, sample-\d\d: no room"):
        _train(tiny.run(tmp_path))
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)


class _Ranks:
    """Three ranks in three threads: the sums of an engine."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(NUM_RANKS)
        self._given: dict[int, Tensor] = {}

    def sum(self, rank: int, values: Tensor) -> Tensor:
        self._given[rank] = values
        self._barrier.wait()
        total = torch.stack([self._given[other] for other in range(NUM_RANKS)]).sum(dim=0)
        self._barrier.wait()
        return total


class _Rank:
    device, world_size = torch.device("cpu"), NUM_RANKS

    def __init__(self, rank: int, ranks: _Ranks) -> None:
        self.rank, self._ranks = rank, ranks

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        return self._ranks.sum(self.rank, values)


def _said(losses: list[list[float]]) -> list[str]:
    """What each rank says of its micro-batches, called "0a", "0b", ... on rank 0."""
    ranks, said = _Ranks(), [""] * NUM_RANKS

    def run(rank: int) -> None:
        samples = [(f"{rank}{letter}é",) for letter in "ab"]
        engine: Any = _Rank(rank, ranks)
        said[rank] = suspects(engine, losses=torch.tensor(losses[rank]), samples=samples)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(NUM_RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_all_ranks_name_the_same_samples() -> None:
    assert _said([[1.0, 2.0], [1.0, torch.inf], [torch.nan, 3.0]]) == ["1bé, 2aé"] * NUM_RANKS
    # Only the gradient is not finite: it may be any of them.
    assert _said([[1.0, 2.0]] * NUM_RANKS) == ["0aé, 0bé, 1aé, 1bé, 2aé, 2bé"] * NUM_RANKS


def test_long_lists_are_cut() -> None:
    assert named([str(number) for number in range(18)]).endswith("14, 15 and 2 more")
