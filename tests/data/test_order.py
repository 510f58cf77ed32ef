"""The order is a pure function: every sample once per epoch, the same on any machine."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data import order as order_module
from memvp_data.order import (
    SORTED_UP_TO,
    global_batch,
    global_positions,
    looked_up,
    sample_order,
    samples_at,
    uniform_draws,
)

SEEDS = st.integers(0, 2**63)
SIZES = st.integers(1, 60)


def written_out(seed: int, epoch: int, num_samples: int) -> list[int]:
    """The definition in Python integers: sort by the SplitMix64 outputs of a counter."""

    def mixed(value: int) -> int:
        value = value * 0x9E3779B97F4A7C15 % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    start = mixed(mixed(seed % 2**64) ^ epoch)
    return sorted(range(num_samples), key=lambda number: mixed((start + number + 1) % 2**64))


@given(seed=SEEDS, epoch=st.integers(0, 1000), num_samples=SIZES)
def test_an_epoch_is_the_written_out_permutation(seed: int, epoch: int, num_samples: int) -> None:
    order = sample_order(seed=seed, epoch=epoch, num_samples=num_samples)
    assert order.tolist() == written_out(seed, epoch, num_samples)
    assert sorted(order.tolist()) == list(range(num_samples))


@given(seed=SEEDS, batch_size=st.integers(1, 70), num_samples=SIZES, num_epochs=st.integers(1, 3))
def test_every_sample_comes_once_per_epoch(seed: int, batch_size: int, num_samples: int, num_epochs: int) -> None:
    needed = num_epochs * num_samples
    steps = range(-(-needed // batch_size))
    batches = [global_batch(seed=seed, step=step, batch_size=batch_size, num_samples=num_samples) for step in steps]
    assert all(len(batch) == batch_size for batch in batches)
    stream = np.concatenate(batches)[:needed].reshape(num_epochs, num_samples)
    for epoch, seen in enumerate(stream):
        assert seen.tolist() == sample_order(seed=seed, epoch=epoch, num_samples=num_samples).tolist()


@given(seed=SEEDS, num_samples=SIZES, size=st.integers(1, 8), factor=st.integers(1, 5), step=st.integers(0, 50))
def test_the_stream_does_not_depend_on_the_batch_size(seed, num_samples, size, factor, step) -> None:
    large = global_batch(seed=seed, step=step, batch_size=size * factor, num_samples=num_samples)
    small = [
        global_batch(seed=seed, step=step * factor + part, batch_size=size, num_samples=num_samples)
        for part in range(factor)
    ]
    assert large.tolist() == np.concatenate(small).tolist()


def test_the_order_of_a_release_never_changes() -> None:
    # Written out by `sample_order(seed=7, epoch=2, num_samples=10)` of version 0.1: checkpoints resume by it.
    assert sample_order(seed=7, epoch=2, num_samples=10).tolist() == [6, 8, 3, 5, 1, 9, 4, 2, 0, 7]


def test_the_looked_up_order_of_a_release_never_changes() -> None:
    # By `looked_up` of version 0.1, which orders more than a million samples.
    order = looked_up(np.arange(10), seed=7, epoch=2, num_samples=10)
    assert order.tolist() == [0, 7, 3, 2, 6, 8, 1, 4, 9, 5]
    assert samples_at(np.arange(4), seed=7, epoch=2, num_samples=SORTED_UP_TO + 5).tolist() == [
        373651,
        865273,
        178641,
        564995,
    ]


@given(seed=SEEDS, epoch=st.integers(0, 1000), num_samples=st.integers(1, 300))
def test_a_looked_up_epoch_is_a_permutation_read_at_any_place(seed: int, epoch: int, num_samples: int) -> None:
    whole = looked_up(np.arange(num_samples), seed=seed, epoch=epoch, num_samples=num_samples)
    assert sorted(whole.tolist()) == list(range(num_samples))
    places = np.array([num_samples - 1, 0, num_samples // 2])
    assert looked_up(places, seed=seed, epoch=epoch, num_samples=num_samples).tolist() == whole[places].tolist()


@pytest.mark.parametrize("sorted_up_to", [SORTED_UP_TO, 100], ids=["sorted", "looked up"])
def test_some_places_or_all_and_a_batch_over_the_end(monkeypatch: pytest.MonkeyPatch, sorted_up_to: int) -> None:
    monkeypatch.setattr(order_module, "SORTED_UP_TO", sorted_up_to)
    num_samples = 1003
    orders = [sample_order(seed=1, epoch=epoch, num_samples=num_samples) for epoch in (0, 1)]
    places = np.array([5, 0, num_samples - 1])
    assert samples_at(places, seed=1, epoch=1, num_samples=num_samples).tolist() == orders[1][places].tolist()
    assert len(np.unique(orders[0])) == num_samples
    step = num_samples // 64
    batch = global_batch(seed=1, step=step, batch_size=64, num_samples=num_samples)
    positions = global_positions(step=step, batch_size=64, num_samples=num_samples)
    assert batch.tolist() == [int(orders[at // num_samples][at % num_samples]) for at in positions]


@pytest.mark.parametrize("num_samples", [20_000, SORTED_UP_TO + 1])
def test_neighbours_come_from_unrelated_shards(num_samples: int) -> None:
    """The correlation of the shards of neighbours, as a random permutation has it: 0 +- 1 / sqrt(number of pairs)."""
    order = sample_order(seed=5, epoch=0, num_samples=num_samples)
    shards = order * 100 // num_samples
    correlation = np.corrcoef(shards[:-1], shards[1:])[0, 1]
    full = np.random.default_rng(0).permutation(num_samples) * 100 // num_samples
    reference = np.corrcoef(full[:-1], full[1:])[0, 1]
    print(f"{num_samples} samples: correlation {correlation:+.5f}, of a full shuffle {reference:+.5f}")
    assert abs(correlation) < 4 / num_samples**0.5
    assert abs(np.mean(shards[:-1] == shards[1:]) - 0.01) < 4 * (0.01 / num_samples) ** 0.5
    # No place of the epoch prefers a part of the data: 10 x 10 cells, each a Poisson count.
    cells = np.histogram2d(np.arange(num_samples), order, bins=10)[0]
    assert np.abs(cells / (num_samples / 100) - 1).max() < 5 / (num_samples / 100) ** 0.5


def test_draws_are_uniform_and_unrelated_to_the_order() -> None:
    samples = np.arange(20_000)
    draws = uniform_draws(samples, seed=3, epochs=0)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(np.histogram(draws, bins=20, range=(0, 1))[0] / 1000 - 1).max() < 0.16  # 5 standard deviations
    others = [
        uniform_draws(samples, seed=3, epochs=1),
        uniform_draws(samples, seed=4),
        uniform_draws(samples + 1, seed=3),
        sample_order(seed=3, epoch=0, num_samples=20_000),
    ]
    assert all(abs(np.corrcoef(draws, other)[0, 1]) < 0.03 for other in others)
    epochs = np.array([0, 5])
    apart = [uniform_draws(np.array([7]), seed=3, epochs=int(epoch))[0] for epoch in epochs]
    assert uniform_draws(np.array([7, 7]), seed=3, epochs=epochs).tolist() == apart


def test_epochs_and_seeds_differ_and_look_shuffled() -> None:
    orders = [sample_order(seed=seed, epoch=epoch, num_samples=500) for seed in range(4) for epoch in range(4)]
    assert len({tuple(order.tolist()) for order in orders}) == 16
    # The rank correlation of two random orders of 500 has a standard deviation of 1 / sqrt(499) = 0.045.
    correlations = [np.corrcoef(a, b)[0, 1] for place, a in enumerate(orders) for b in orders[:place]]
    assert np.abs(correlations).max() < 0.2
    assert max(abs(np.corrcoef(order, np.arange(500))[0, 1]) for order in orders) < 0.2


def test_another_process_with_another_hash_seed_agrees() -> None:
    script = "from memvp_data.order import global_batch; "
    script += "print(global_batch(seed=3, step=11, batch_size=8, num_samples=21).tolist())"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONHASHSEED": "5", **_paths()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(global_batch(seed=3, step=11, batch_size=8, num_samples=21).tolist())


def _paths() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}


def test_a_cached_order_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        sample_order(seed=0, epoch=0, num_samples=4)[0] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be positive"),
        ({"batch_size": 0}, "batch_size and num_samples must be positive"),
        ({"step": -1}, "step not negative"),
        ({"seed": -1}, "seed and epoch must not be negative"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        global_batch(**{"seed": 0, "step": 0, "batch_size": 1, "num_samples": 1, **arguments})
