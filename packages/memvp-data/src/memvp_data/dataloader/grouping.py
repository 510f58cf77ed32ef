"""The order of an epoch with the questions of an image side by side, so that a batch reads few images.

Images are shuffled instead of samples, and the questions of each image among themselves. An image with very many
questions comes back in runs of at most `run_length`, since a batch of one image alone teaches badly.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memvp_data.order import global_positions, shuffle_keys

_IMAGES = 0x1F83D9ABFB41BD6B


class GroupedOrder:
    """Samples at any step, grouped by image; the same on any machine, resumed by the step alone."""

    def __init__(self, image_numbers: NDArray[np.integer], *, seed: int, run_length: int = 8) -> None:
        """`image_numbers` (num_samples,): which image a sample has, negative for none (then it stands by itself)."""
        if run_length < 1 or seed < 0 or not len(image_numbers):
            raise ValueError(
                f"expected samples, a run_length of at least 1 and a seed from 0 on, got {len(image_numbers)} samples, "
                f"run_length {run_length}, seed {seed}"
            )
        self.seed, self.run_length = seed, run_length
        self._groups = _own_groups(np.asarray(image_numbers, dtype=np.int64))
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def batch(self, *, step: int, batch_size: int) -> NDArray[np.int64]:
        """Sample indices (batch_size,) of a global step, counted from 0. Epochs are joined end to end."""
        num_samples = len(self._groups)
        positions = global_positions(step=step, batch_size=batch_size, num_samples=num_samples)
        epochs, places = np.divmod(positions, num_samples)
        return np.concatenate([self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Sort by the hash of (image, run), then by the hash of the sample."""
        keys = shuffle_keys(seed=self.seed, epoch=epoch, count=len(self._groups))
        by_image = np.lexsort((keys, self._groups))
        sorted_groups = self._groups[by_image]
        starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
        sizes = np.diff(np.r_[starts, len(sorted_groups)])
        rank = np.arange(len(sorted_groups)) - np.repeat(starts, sizes)
        is_first = rank % self.run_length == 0
        run = np.cumsum(is_first) - 1
        run_keys = shuffle_keys(seed=self.seed ^ _IMAGES, epoch=epoch, count=int(is_first.sum()))
        return by_image[np.lexsort((np.arange(len(run)), run_keys[run]))]


def _own_groups(image_numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Image numbers, and a number of its own for every sample without one."""
    alone = image_numbers < 0
    groups = image_numbers.copy()
    groups[alone] = image_numbers.max() + 1 + np.arange(alone.sum())
    return groups
