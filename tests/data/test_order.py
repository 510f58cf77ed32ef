"""The order is a pure function: every sample once per epoch, the same on any machine."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.order import global_batch, sample_order

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
