"""A damaged feature never trains, whether members are hashed as they are read or shards once beside training."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memvp_data.features import FeatureStore
from memvp_data.files.storage import ShardError
from memvp_data.shards.reader import ShardReader
from memvp_train.config import LaunchConfig
from memvp_train.training.batches import training_batches
from memvp_train.training.stage import run_stage
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)


# 24 samples in batches of 8: less than all of them, all of them several times.
@pytest.mark.parametrize("num_steps", [1, 12])
def test_a_damaged_feature_stops_training_and_is_named(tiny: Any, tmp_path: Path, num_steps: int) -> None:
    folder = tmp_path / "features"
    shutil.copytree(tiny.features, folder)
    (row,) = ShardReader(folder).rows("image-13")
    path = folder / row.shard
    data = bytearray(path.read_bytes())
    data[row.offset + row.size - 2] ^= 1
    path.write_bytes(data)
    run = replace(tiny.run(tmp_path / "out", num_steps=num_steps), features=str(folder))
    with pytest.raises(ShardError, match=r"features-00001\.tar"):
        run_stage(run, HERE)
    assert not list((tmp_path / "out").glob("checkpoints/step-*"))


@pytest.mark.parametrize(
    ("num_steps", "loader_processes", "is_hashed"), [(2, 0, False), (12, 0, True), (12, 1, False)], ids=str
)
def test_shards_are_hashed_once_where_all_of_them_are_read(
    tiny: Any, tmp_path: Path, num_steps: int, loader_processes: int, is_hashed: bool
) -> None:
    launch = LaunchConfig(num_workers=0, loader_processes=loader_processes)
    prepared = plan_of(tiny.run(tmp_path, num_steps=num_steps), launch)
    batches = training_batches(prepared, rank=0, world_size=1)
    assert isinstance(batches.source, FeatureStore)
    reader = batches.source._reader
    reader.wait_until_verified()
    assert {reader.is_hashed(shard.name) for shard in reader.manifest.shards} == {is_hashed}
