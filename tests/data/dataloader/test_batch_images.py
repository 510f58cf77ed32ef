"""Samples with several images: their rows side by side, and no row of another sample."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.dataloader.batch_images import shown_images
from memvp_data.dataloader.loader import TrainingBatches
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
