"""Which samples a training step sees: a pure function of (seed, step, batch size, number of samples).

Nothing else is needed to resume, on any number of workers. The shuffle sorts by a hash written out below instead of
using a random generator of NumPy, whose streams may change between versions.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15


def sample_order(*, seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """The order (num_samples,) of one epoch: a permutation of all sample indices. Read-only."""
    if num_samples < 1:
        raise ValueError(f"there must be at least one sample to order, got {num_samples}")
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must not be negative, got seed {seed} and epoch {epoch}")
    return _order(seed, epoch, num_samples)


def global_batch(*, seed: int, step: int, batch_size: int, num_samples: int) -> NDArray[np.int64]:
    """Sample indices (batch_size,) of a global step, counted from 0. Epochs are joined end to end."""
    if batch_size < 1 or step < 0 or num_samples < 1:
        given = f"batch_size {batch_size}, step {step}, num_samples {num_samples}"
        raise ValueError(f"batch_size and num_samples must be positive and step not negative, got {given}")
    position, end = step * batch_size, (step + 1) * batch_size
    pieces = []
    while position < end:
        epoch, start = divmod(position, num_samples)
        stop = min(num_samples, start + end - position)
        pieces.append(sample_order(seed=seed, epoch=epoch, num_samples=num_samples)[start:stop])
        position += stop - start
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    start = _mixed(np.array([seed % 2**64], np.uint64))
    start = _mixed(start ^ np.uint64(epoch % 2**64))
    order = np.argsort(_mixed(start + np.arange(1, num_samples + 1, dtype=np.uint64)), kind="stable")
    order.setflags(write=False)
    return order


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 generator's output for each state (Steele, Lea, Flood 2014), modulo 2 ** 64 by wrap-around."""
    mixed = values * np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
