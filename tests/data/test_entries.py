"""Samples with several images: their rows side by side, no row of another sample, and pixels in the same order."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from memvp_data.entries import shown_images
from memvp_data.loader import TrainingBatches
from memvp_data.manifest import ShardError
from memvp_data.pixels import PixelStore
from memvp_data.prefetch import PrefetchedBatches
from memvp_data.preprocessing import preprocess
from memvp_data.shards import write_shards
from memvp_data.text import Encoded

ROWS, WIDTH = 2, 3
NAMES = [f"i{number}" for number in range(4)]
ENTRIES = st.lists(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5, unique=True
)


class MadeUp:
    """Image n is n + 1 everywhere, and zero nowhere."""

    feature_shape, num_rows = (ROWS, WIDTH), ROWS

    def __contains__(self, image_id: object) -> bool:
        return image_id in NAMES

    def load(self, image_ids) -> torch.Tensor:
        return torch.stack([torch.full((ROWS, WIDTH), float(NAMES.index(name)) + 1) for name in image_ids])


@given(entries=ENTRIES)
def test_rows_of_an_entry_are_those_of_its_images_in_their_order(entries) -> None:
    shown = shown_images(entries, source=MadeUp(), feature_shape=(ROWS, WIDTH))
    most = max(map(len, entries))
    assert shown.tensor.shape == (len(entries), most * ROWS, WIDTH)
    assert (shown.row_images is None) == (most == 1)
    for place, images in enumerate(entries):
        rows = [float(NAMES.index(name)) + 1 for name in images for _ in range(ROWS)]
        padding = (most - len(images)) * ROWS
        assert shown.tensor[place, :, 0].tolist() == rows + [0.0] * padding
        if shown.row_images is not None:
            numbers = [number for number in range(len(images)) for _ in range(ROWS)]
            assert shown.row_images[place].tolist() == numbers + [-1] * padding


def sample(number: int) -> Encoded:
    """Sample n with n % 4 images, of which neighbours share some."""
    image_ids = tuple(NAMES[(number + place) % 4] for place in range(number % 4))
    return Encoded(str(number), (1, number + 2), (-100, number + 2), image_ids)


def loader(source=None, **changes) -> TrainingBatches:
    settings = {"seed": 0, "global_batch_size": 12, "micro_batch_size": 5, "rank": 0, "world_size": 1}
    settings |= {"pad_token_id": 0, "feature_shape": (ROWS, WIDTH), "num_slots": 6}
    return TrainingBatches([sample(number) for number in range(12)], source or MadeUp(), **{**settings, **changes})


@pytest.mark.parametrize("options", [{}, {"packed_tokens": 6}, {"questions_per_image": 2}])
def test_every_sample_reads_its_own_images(options) -> None:
    seen: list[str] = []
    for batch in loader(**options).at(0):
        first = slice(None) if batch.segments is None else (batch.position_ids == 0) & (batch.segments >= 0)
        for name, entry in zip(batch.sample_ids, batch.image_index[first].tolist(), strict=True):
            expected = [float(NAMES.index(one)) + 1 for one in sample(int(name)).image_ids for _ in range(ROWS)]
            found = [] if entry < 0 else [value for value in batch.visual_features[entry, :, 0].tolist() if value]
            assert found == expected
            seen.append(name)
    assert sorted(seen, key=int) == [str(number) for number in range(12)]


def test_samples_with_more_rows_than_slots_are_refused_by_name() -> None:
    message = r"sample '3' has 3 image\(s\) of 2 rows, the memory has num_slots 5; set it to 6 or more"
    with pytest.raises(ValueError, match=message):
        loader(num_slots=5)


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
    settings = {"seed": 0, "global_batch_size": 2, "micro_batch_size": 2, "rank": 0, "world_size": 1}
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
