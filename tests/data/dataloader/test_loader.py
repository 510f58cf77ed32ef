"""A step's batches hold the same samples for any number of ranks, each with its own image and its own labels."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memvp_data.dataloader.loader import Batch, TrainingBatches
from memvp_data.features import FeatureStore, feature_record
from memvp_data.order import global_batch
from memvp_data.shards import write_shards
from memvp_data.text import Encoded

PAD, SHAPE, NUM_IMAGES = 99, (2, 3), 5


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("features")
    records = ((f"i{n}", {"safetensors": feature_record(torch.full(SHAPE, float(n)))}) for n in range(NUM_IMAGES))
    write_shards(folder, records, kind="features")
    return FeatureStore(folder)


def made_up(number: int) -> Encoded:
    """Sample n: n % 7 + 2 tokens of value n, the last n % 3 + 1 of them learnt, every fourth without image."""
    length, learnt = number % 7 + 2, min(number % 3 + 1, number % 7 + 1)
    labels = (-100,) * (length - learnt) + (number,) * learnt
    return Encoded(str(number), (number,) * length, labels, () if number % 4 == 0 else (f"i{number % NUM_IMAGES}",))


def batches(store: FeatureStore | None, *, num_samples: int = 20, **changes) -> TrainingBatches:
    settings = {"seed": 1, "global_batch_size": 8, "micro_batch_size": 3, "rank": 0, "world_size": 1}
    samples = [made_up(number) for number in range(num_samples)]
    return TrainingBatches(samples, store, pad_token_id=PAD, feature_shape=SHAPE, **{**settings, **changes})


def rows(batch: Batch) -> dict[str, tuple]:
    """What the model would see of each row, without padding."""
    found = {}
    for row, name in enumerate(batch.sample_ids):
        keep = batch.attention_mask[row].bool()
        image = batch.image_index[row].item()
        features = None if image < 0 else tuple(batch.visual_features[image].flatten().tolist())
        found[name] = (tuple(batch.input_ids[row][keep].tolist()), tuple(batch.labels[row][keep].tolist()), features)
        assert (batch.input_ids[row][~keep] == PAD).all()
        assert (batch.labels[row][~keep] == -100).all()
        assert keep.tolist() == sorted(keep.tolist(), reverse=True)  # padding is on the right
    return found


SIZES = {
    "seed": st.integers(0, 1000),
    "num_samples": st.integers(1, 30),
    "per_rank": st.integers(1, 6),
    "micro_batch_size": st.integers(1, 7),
    "step": st.integers(0, 20),
}


@given(**SIZES)
def test_any_number_of_ranks_shares_the_same_global_batch(
    store: FeatureStore, seed: int, num_samples: int, per_rank: int, micro_batch_size: int, step: int
) -> None:
    size = per_rank * 4
    chosen = global_batch(seed=seed, step=step, batch_size=size, num_samples=num_samples)
    expected = Counter(str(number) for number in chosen)
    for world_size in (1, 2, 4):
        loaders = [
            batches(
                store,
                num_samples=num_samples,
                seed=seed,
                global_batch_size=size,
                micro_batch_size=micro_batch_size,
                rank=rank,
                world_size=world_size,
            )
            for rank in range(world_size)
        ]
        shares = [loader.at(step) for loader in loaders]
        # No rank waits for another: equally many micro-batches of equal size.
        assert len({tuple(len(batch.sample_ids) for batch in share) for share in shares}) == 1
        assert all(len(share) == loaders[0].num_micro_batches for share in shares)
        flat = [batch for share in shares for batch in share]
        assert Counter(name for batch in flat for name in batch.sample_ids) == expected
        labels = sum(int((batch.labels != -100).sum()) for batch in flat)
        assert {batch.num_global_labels for batch in flat} == {labels}


@given(**SIZES)
def test_every_row_is_its_sample_and_its_image(
    store: FeatureStore, seed: int, num_samples: int, per_rank: int, micro_batch_size: int, step: int
) -> None:
    loader = batches(
        store, num_samples=num_samples, seed=seed, global_batch_size=per_rank, micro_batch_size=micro_batch_size
    )
    for batch in loader.at(step):
        for name, (input_ids, labels, features) in rows(batch).items():
            sample = made_up(int(name))
            assert (input_ids, labels) == (sample.input_ids, sample.labels)
            assert features == ((float(sample.image_ids[0][1:]),) * 6 if sample.image_ids else None)
        wanted = {made_up(int(name)).image_ids for name in batch.sample_ids} - {()}
        assert batch.visual_features.shape == (len(wanted), *SHAPE)  # each image once
        assert batch.visual_features.dtype == torch.float32
        assert batch.attention_mask.any(dim=0).all()  # no column of padding only


def test_resuming_needs_only_the_step(store: FeatureStore) -> None:
    whole = [batch for step in range(9) for batch in batches(store).at(step)]
    for stops in ([], [4], [1, 4, 5]):
        resumed = []
        for start, stop in zip([0, *stops], [*stops, 9], strict=True):
            again = batches(store)
            resumed += [batch for step in range(start, stop) for batch in again.at(step)]
        for a, b in zip(whole, resumed, strict=True):
            assert a.sample_ids == b.sample_ids
            assert torch.equal(a.input_ids, b.input_ids)
            assert torch.equal(a.visual_features, b.visual_features)


def test_similar_lengths_meet_in_a_micro_batch(store: FeatureStore) -> None:
    loader = batches(store, num_samples=100, global_batch_size=100, micro_batch_size=10)
    padding = sum(int((batch.attention_mask == 0).sum()) for batch in loader.at(0))
    assert padding <= 10 * 7  # sorted, each of the 7 steps in length is padded in one micro-batch at most


def test_text_only_training_needs_no_features() -> None:
    text_only = [made_up(number) for number in (0, 4, 8)]
    loader = TrainingBatches(
        text_only, None, seed=0, global_batch_size=2, micro_batch_size=2, rank=0, world_size=1, pad_token_id=PAD,
        feature_shape=SHAPE,
    )  # fmt: skip
    (batch,) = loader.at(0)
    assert batch.visual_features.shape == (0, *SHAPE)
    assert batch.image_index.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 9, "world_size": 2}, "global_batch_size 9 must divide among 2 ranks; 8 would"),
        ({"global_batch_size": 1, "world_size": 2}, "1 must divide among 2 ranks; 2 would"),
        ({"rank": 1}, "rank below the number of ranks"),
        ({"micro_batch_size": 0}, "must be positive"),
        ({"num_samples": 0}, "no samples to train on"),
    ],
)
def test_sizes_that_cannot_work_are_refused_before_the_first_step(
    store: FeatureStore, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        batches(store, **changes)


def test_missing_images_are_refused_before_the_first_step(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match=r"sample '1' needs image 'i1', but no feature store was given"):
        batches(None)
    stranger = Encoded("x", (1, 2), (-100, 2), ("i77",))
    arguments = {"seed": 0, "global_batch_size": 1, "micro_batch_size": 1, "rank": 0, "world_size": 1}
    with pytest.raises(ValueError, match="sample 'x' needs image 'i77', but the feature store does not have it"):
        TrainingBatches([stranger], store, **arguments, pad_token_id=PAD, feature_shape=SHAPE)
    with pytest.raises(ValueError, match=r"features are \(2, 3\) per image, the model expects \(2, 4\)"):
        TrainingBatches([stranger], store, **arguments, pad_token_id=PAD, feature_shape=(2, 4))


@pytest.mark.parametrize("options", [{"token_budget": 20}, {"token_budget": 20, "questions_per_image": 3}], ids=str)
@settings(max_examples=20)
@given(seed=st.integers(0, 1000), step=st.integers(0, 9))
def test_a_token_budget_holds_padding_included(store: FeatureStore, options: dict, seed: int, step: int) -> None:
    plain = batches(store, seed=seed, questions_per_image=options.get("questions_per_image", 0)).at(step)
    expected = {name: row for batch in plain for name, row in rows(batch).items()}
    for world_size in (1, 2, 4):
        shares = [
            batches(store, seed=seed, micro_batch_size=8, rank=rank, world_size=world_size, **options).at(step)
            for rank in range(world_size)
        ]
        assert len({len(share) for share in shares}) == 1
        flat = [batch for share in shares for batch in share]
        assert all(batch.input_ids.numel() <= 20 for batch in flat)
        assert {name: row for batch in flat for name, row in rows(batch).items()} == expected
        assert {batch.num_global_labels for batch in flat} == {plain[0].num_global_labels}


def test_questions_of_an_image_meet_in_a_batch(store: FeatureStore) -> None:
    def num_images(questions_per_image: int, **options: int) -> int:
        loader = batches(store, num_samples=60, questions_per_image=questions_per_image, **options)
        return sum(len(batch.visual_features) for step in range(6) for batch in loader.at(step))

    for options in ({"micro_batch_size": 4}, {"micro_batch_size": 1, "packed_tokens": 20}):
        assert num_images(8, **options) < 0.8 * num_images(0, **options)


def test_a_mean_over_samples_weights_them_alike(store: FeatureStore) -> None:
    for batch in batches(store, mean_over="samples").at(0):
        assert batch.num_global_labels == 8
        weights = torch.ones(batch.labels.shape) if batch.label_weights is None else batch.label_weights
        sums = (weights * (batch.labels != -100)).sum(dim=1)
        torch.testing.assert_close(sums, torch.ones(len(sums)))
