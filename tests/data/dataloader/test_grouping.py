"""Grouped by image, an epoch still holds every sample once, and is shuffled in all that grouping leaves free."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.dataloader.grouping import GroupedOrder

IMAGES = st.lists(st.integers(-1, 6), min_size=1, max_size=40)


def epoch_of(images: list[int], *, seed: int = 0, epoch: int = 0, run_length: int = 3) -> list[int]:
    order = GroupedOrder(np.array(images), seed=seed, run_length=run_length)
    return order.batch(step=epoch, batch_size=len(images)).tolist()


@given(images=IMAGES, seed=st.integers(0, 2**63), epoch=st.integers(0, 5), run_length=st.integers(1, 5))
def test_every_sample_once_in_runs_of_one_image(images, seed, epoch, run_length) -> None:
    order = epoch_of(images, seed=seed, epoch=epoch, run_length=run_length)
    assert sorted(order) == list(range(len(images)))
    seen = [images[place] for place in order]
    for image in set(images) - {-1}:
        count = seen.count(image)
        runs = sum(image == now and image != before for before, now in zip([None, *seen], seen, strict=False))
        assert runs <= -(-count // run_length)


@given(images=IMAGES, seed=st.integers(0, 1000), batch_size=st.integers(1, 9))
def test_batches_are_cuts_of_the_epochs_end_to_end(images, seed, batch_size) -> None:
    order = GroupedOrder(np.array(images), seed=seed, run_length=2)
    steps = -(-2 * len(images) // batch_size)
    stream = np.concatenate([order.batch(step=step, batch_size=batch_size) for step in range(steps)]).tolist()
    expected = epoch_of(images, seed=seed, run_length=2) + epoch_of(images, seed=seed, epoch=1, run_length=2)
    assert stream[: 2 * len(images)] == expected


def test_a_batch_reads_few_images() -> None:
    images = np.arange(4000) // 8
    grouped = GroupedOrder(images, seed=1, run_length=8).batch(step=0, batch_size=256)
    assert len(set(images[grouped])) == 32
    plain = GroupedOrder(images, seed=1, run_length=1).batch(step=0, batch_size=256)
    assert len(set(images[plain])) > 180  # 201 of 500 are expected


def test_images_runs_and_questions_are_shuffled() -> None:
    images = np.arange(20_000) // 4
    order = GroupedOrder(images, seed=1, run_length=4).batch(step=0, batch_size=20_000)
    firsts = images[order[::4]]
    assert (firsts == images[order[3::4]]).all()
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 4 / len(firsts) ** 0.5
    assert np.bincount(order[::4] % 4).min() > 1100  # each question is first as often as any: 1250 +- 31
    again = GroupedOrder(images, seed=1, run_length=4).batch(step=1, batch_size=20_000)
    assert abs(np.corrcoef(order, again)[0, 1]) < 0.05


def test_the_grouped_order_of_a_release_never_changes() -> None:
    # By `GroupedOrder` of version 0.1: checkpoints resume by it.
    assert epoch_of([0, 0, 0, 1, 1, -1, -1, 2], seed=7, epoch=2, run_length=2) == [3, 4, 6, 5, 0, 7, 1, 2]


@pytest.mark.parametrize("changes", [{"run_length": 0}, {"seed": -1}])
def test_impossible_settings_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="expected samples, a run_length of at least 1 and a seed from 0 on, got 2"):
        GroupedOrder(np.array([0, 1]), **{"seed": 0, **changes})
