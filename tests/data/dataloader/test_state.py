"""Going on after a stop: nothing skipped, nothing doubled, whatever the number of ranks, and never another stream."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.dataloader.state import LoaderState, ResumeError
from memvp_data.text import Encoded

NUM_SAMPLES, BATCH = 22, 4
EPOCH = NUM_SAMPLES // BATCH  # step 5 is the last that begins in the first epoch, and ends in the second


def sample(number: int) -> Encoded:
    return Encoded(str(number), (1, *[2] * (number % 5 + 1)), (-100, *[2] * (number % 5 + 1)), ())


def loader(*, num_samples: int = NUM_SAMPLES, **changes) -> TrainingBatches:
    settings = {"seed": 3, "global_batch_size": BATCH, "micro_batch_size": 2, "rank": 0, "world_size": 1}
    samples = changes.pop("samples", None) or [sample(number) for number in range(num_samples)]
    return TrainingBatches(samples, None, pad_token_id=0, feature_shape=(1, 2), **{**settings, **changes})


def seen(start: int, stop: int, *, world_size: int = 1, **changes) -> list[list[str]]:
    """The sample ids of every global step, sorted, as all ranks together see them."""
    ranks = [loader(rank=rank, world_size=world_size, **changes) for rank in range(world_size)]
    return [
        sorted(name for rank in ranks for batch in rank.at(step) for name in batch.sample_ids)
        for step in range(start, stop)
    ]


STOPS = [[0], [1], [3], [EPOCH], [EPOCH + 1], [1, 4], [0, EPOCH, EPOCH + 1], [2, 2, 2]]


@pytest.mark.parametrize("stops", STOPS, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"questions_per_image": 2}, {"token_budget": 12}, {"packed_tokens": 9}], ids=str
)
def test_stopped_and_resumed_equals_uninterrupted(stops: list[int], options: dict) -> None:
    whole = seen(0, 12, **options)
    pieces = []
    for number, (start, stop) in enumerate(zip([0, *stops], [*stops, 12], strict=True)):
        world_size = (1, 2, 4)[number % 3]
        state = LoaderState.from_dict(loader(rank=0, world_size=world_size, **options).state(start).to_dict())
        step = loader(rank=0, world_size=world_size, **options).resume(state)
        pieces += seen(step, stop, world_size=world_size, **options)
    assert pieces == whole
    epoch = [name for names in whole for name in names][: EPOCH * BATCH]
    assert len(set(epoch)) == len(epoch)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**40),
    num_samples=st.integers(1, 40),
    per_rank=st.integers(1, 3),
    stops=st.lists(st.integers(0, 9), max_size=3).map(sorted),
    worlds=st.lists(st.sampled_from([1, 2, 4]), min_size=4, max_size=4),
)
def test_any_seed_size_and_split(seed, num_samples, per_rank, stops, worlds) -> None:
    options = {"seed": seed, "num_samples": num_samples, "global_batch_size": 4 * per_rank}
    whole = seen(0, 9, **options)
    pieces = []
    for start, stop, world_size in zip([0, *stops], [*stops, 9], worlds, strict=False):
        pieces += seen(start, stop, world_size=world_size, **options)
    assert pieces == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed was 3, is 4"),
        ({"global_batch_size": 8}, "global_batch_size was 4, is 8"),
        ({"num_samples": 21}, "num_samples was 22, is 21; data was"),
        ({"samples": [*map(sample, range(21)), sample(77)]}, "samples: data was '[0-9a-f]+', is '[0-9a-f]+'"),
        ({"questions_per_image": 2}, "order was 'shuffled', is 'by image, 2'"),
        ({"seed": 4, "global_batch_size": 2}, "seed was 3, is 4; global_batch_size was 4, is 2"),
    ],
)
def test_another_stream_is_refused_with_the_difference(changes: dict, message: str) -> None:
    state = loader().state(7)
    with pytest.raises(
        ResumeError, match=rf"cannot go on at step 7 with another stream of .*{message}.*start at step 0"
    ):
        loader(**changes).resume(state)


def test_how_the_work_is_cut_up_may_change() -> None:
    state = loader().state(7)
    assert loader(micro_batch_size=1, world_size=4, rank=3, packed_tokens=20).resume(state) == 7


@pytest.mark.parametrize("change", [{"step": "7"}, {"extra": 1}, {"seed": 1.0}], ids=str)
def test_a_damaged_place_is_refused(change: dict) -> None:
    with pytest.raises(ResumeError, match="a loader's place has the fields step, seed"):
        LoaderState.from_dict({**loader().state(7).to_dict(), **change})
    with pytest.raises(ResumeError):
        LoaderState.from_dict({"step": 7})


def test_the_digest_sees_every_part_of_a_sample() -> None:
    one = sample(1)
    changed = [
        replace(one, id="9"),
        replace(one, input_ids=(1, 2, 3)),
        replace(one, labels=(-100, -100, 2)),
        replace(one, weight=0.5),
    ]
    digests = {loader(samples=[other]).rows.digest for other in [one, *changed]}
    assert len(digests) == 5
