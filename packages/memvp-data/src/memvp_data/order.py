"""Which samples a training step sees: a pure function of (seed, step, batch size, number of samples).

Nothing else is needed to resume, on any number of workers. The hashes are written out below instead of using a random
generator of NumPy, whose streams may change between versions.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
# Up to here an epoch is sorted by hashes. Beyond, sorting takes seconds and hundreds of MB at every start, so each
# position is looked up by itself. Neither may ever change: checkpoints resume by them.
SORTED_UP_TO = 1 << 20
_ROUNDS = 6
_DRAWS = 0xD1B54A32D192ED03


def sample_order(*, seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The order (num_samples,) of one epoch: a permutation of all sample indices. Read-only."""
    _check(seed, epoch=epoch, num_samples=num_samples)
    if num_samples <= SORTED_UP_TO:
        return _sorted_order(seed, epoch, num_samples)
    order = looked_up(np.arange(num_samples), seed=seed, epoch=epoch, num_samples=num_samples)
    order.setflags(write=False)
    return order


def samples_at(positions: NDArray[np.int64], *, seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """`sample_order(...)[positions]`, at the cost of these positions alone when there are many samples."""
    _check(seed, epoch=epoch, num_samples=num_samples)
    if num_samples <= SORTED_UP_TO:
        return _sorted_order(seed, epoch, num_samples)[positions]
    return looked_up(positions, seed=seed, epoch=epoch, num_samples=num_samples)


def global_batch(*, seed: int, step: int, batch_size: int, num_samples: int) -> NDArray[np.int64]:
    """Sample indices (batch_size,) of a global step, counted from 0. Epochs are joined end to end."""
    positions = global_positions(step=step, batch_size=batch_size, num_samples=num_samples)
    epochs, places = np.divmod(positions, num_samples)
    pieces = [
        samples_at(places[epochs == epoch], seed=seed, epoch=int(epoch), num_samples=num_samples)
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(pieces)


def global_positions(*, step: int, batch_size: int, num_samples: int) -> NDArray[np.int64]:
    """Positions (batch_size,) of a step in the endless stream; position // num_samples is the epoch."""
    if batch_size < 1 or step < 0 or num_samples < 1:
        given = f"batch_size {batch_size}, step {step}, num_samples {num_samples}"
        raise ValueError(f"batch_size and num_samples must be positive and step not negative, got {given}")
    return np.arange(step * batch_size, (step + 1) * batch_size)


def uniform_draws(samples: NDArray[np.int64], *, seed: int, epochs: NDArray[np.int64] | int = 0) -> NDArray[np.float64]:
    """One number in [0, 1) per sample: the same for the same (seed, epoch, sample), else unrelated."""
    start = _mixed(np.array([(seed ^ _DRAWS) % 2**64], np.uint64))
    states = _mixed(start ^ np.asarray(epochs).astype(np.uint64)) ^ _mixed(samples.astype(np.uint64))
    return (_mixed(states) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def shuffle_keys(*, seed: int, epoch: int, count: int) -> NDArray[np.uint64]:
    """`count` different numbers; sorting by them is the shuffle of that epoch."""
    start = _mixed(np.array([seed % 2**64], np.uint64))
    start = _mixed(start ^ np.uint64(epoch % 2**64))
    return _mixed(start + np.arange(1, count + 1, dtype=np.uint64))


def looked_up(positions: NDArray[np.int64], *, seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """Samples at these positions of a permutation that is never written out.

    A Feistel network permutes the numbers below the next power of four, and a number that is no sample is sent through
    again until it is one (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = np.uint64(((num_samples - 1).bit_length() + 1) // 2)
    keys = shuffle_keys(seed=seed, epoch=epoch, count=_ROUNDS)
    samples = _feistel(positions.astype(np.uint64), half=half, keys=keys)
    while (outside := samples >= num_samples).any():
        samples[outside] = _feistel(samples[outside], half=half, keys=keys)
    return samples.astype(np.int64)


def _feistel(values: NDArray[np.uint64], *, half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


@lru_cache(maxsize=4)
def _sorted_order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    order = np.argsort(shuffle_keys(seed=seed, epoch=epoch, count=num_samples), kind="stable")
    order.setflags(write=False)
    return order


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 generator's output for each state (Steele, Lea, Flood 2014), modulo 2 ** 64 by wrap-around."""
    mixed = values * np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _check(seed: int, *, epoch: int, num_samples: int) -> None:
    if num_samples < 1:
        raise ValueError(f"there must be at least one sample to order, got {num_samples}")
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must not be negative, got seed {seed} and epoch {epoch}")
