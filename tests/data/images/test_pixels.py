"""Pixels for a live tower: the images of each sample in their order, as the tower takes them."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.dataloader.prefetch import PrefetchedBatches
from memvp_data.files.storage import ShardError
from memvp_data.images.pixels import PixelStore
from memvp_data.images.preprocessing import preprocess
from memvp_data.shards import write_shards
from memvp_data.text import Encoded
from tests.data.dataloader.test_batch_images import NAMES, ROWS, loader, sample


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    records = []
    for number, name in enumerate(NAMES):
        file = BytesIO()
        Image.new("RGB", (20, 30), (10 * number, 0, 0)).save(file, "PNG")
        records.append((name, {"png": file.getvalue()}))
    records.insert(0, ("broken", {"png": b"no image"}))
    write_shards(folder, records, kind="images", max_shard_samples=2)
    return folder


def pixels_of(number: int) -> torch.Tensor:
    image = Image.new("RGB", (20, 30), (10 * number, 0, 0))
    return torch.from_numpy(preprocess(image, preprocessing="toyworld_96"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pixels_come_as_the_tower_takes_them(pictures: Path, num_workers: int) -> None:
    source = PixelStore(pictures, preprocessing="toyworld_96", num_rows=ROWS)
    batches = loader(source, feature_shape=source.feature_shape)
    ahead = PrefetchedBatches(batches, num_steps=1, num_workers=num_workers)
    for batch in ahead.at(0):
        assert batch.pixel_values is not None
        assert batch.visual_features.shape[0] == 0
        for name, entry in zip(batch.sample_ids, batch.image_index.tolist(), strict=True):
            images = sample(int(name)).image_ids
            if images:
                frames = batch.pixel_values[entry].reshape(-1, *source.feature_shape)
                expected = torch.stack([pixels_of(NAMES.index(one)) for one in images])
                torch.testing.assert_close(frames[: len(images)], expected, rtol=0, atol=0)
                assert not frames[len(images) :].any()
    ahead.close()


def test_a_batch_without_images_has_one_blank_image_that_nobody_reads(pictures: Path) -> None:
    source = PixelStore(pictures, preprocessing="toyworld_96", num_rows=ROWS)
    settings: dict[str, Any] = {"seed": 0, "global_batch_size": 2, "micro_batch_size": 2, "rank": 0, "world_size": 1}
    text_only = [Encoded(name, (1, 2), (-100, 2), ()) for name in "ab"]
    (batch,) = TrainingBatches(text_only, source, pad_token_id=0, feature_shape=source.feature_shape, **settings).at(0)
    assert batch.pixel_values is not None
    assert batch.pixel_values.shape == (1, 3, 96, 96)
    assert not batch.pixel_values.any()
    assert batch.image_index.tolist() == [-1, -1]


def test_an_image_that_cannot_be_decoded_is_named_with_its_shard(pictures: Path) -> None:
    source = PixelStore(pictures, preprocessing="toyworld_96", num_rows=ROWS)
    with pytest.raises(ShardError, match=r"images-00000\.tar: image 'broken' is not a readable"):
        source.load(["i0", "broken"])
    assert "broken" in source
    assert np.isfinite(source.load(["i0"]).numpy()).all()
