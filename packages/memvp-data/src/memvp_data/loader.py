"""Batches of a training step: tokens padded to the right, each image's features once, and an index from row to image.

A step is a pure function of its number. Every rank works out the whole global batch, sorts it by length (less padding)
and takes its share, so the samples of a step are the same for any number of ranks and resuming needs no state at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memvp_data.features import FeatureStore
from memvp_data.order import global_batch
from memvp_data.text import IGNORED, Encoded


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B samples and T tokens, on the CPU."""

    input_ids: Tensor
    """(B, T) int64, padded on the right."""
    attention_mask: Tensor
    """(B, T) int64: 1 for tokens, 0 for padding."""
    labels: Tensor
    """(B, T) int64, -100 where nothing is learnt; not shifted."""
    visual_features: Tensor
    """(I, g, c) float32 of the I different images; (0, g, c) if there are none."""
    image_index: Tensor
    """(B,) int64: entry of `visual_features`, -1 = no image."""
    num_global_labels: int
    """Label tokens of the whole global batch, over all ranks and micro-batches: the divisor of the summed loss."""
    sample_ids: tuple[str, ...]
    """The B sample ids."""


class TrainingBatches:
    """This rank's micro-batches of any step."""

    def __init__(
        self,
        encoded: Sequence[Encoded],
        features: FeatureStore | None,
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        pad_token_id: int,
        feature_shape: tuple[int, int],
    ) -> None:
        """`features` may be None for text only; `feature_shape` (g, c) is then the shape of the zero images.

        Raises `ValueError` before any step if sizes do not divide or an image has no features.
        """
        _check_sizes(global_batch_size, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
        _check_images(encoded, features=features, feature_shape=feature_shape)
        self.encoded, self.features, self.feature_shape = encoded, features, feature_shape
        self.seed, self.global_batch_size, self.micro_batch_size = seed, global_batch_size, micro_batch_size
        self.rank, self.world_size, self.pad_token_id = rank, world_size, pad_token_id
        self._lengths = np.array([len(sample.input_ids) for sample in encoded])
        self._num_labels = np.array([sample.num_labels for sample in encoded])

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step on each rank."""
        return -(-self.global_batch_size // (self.world_size * self.micro_batch_size))

    def at(self, step: int) -> list[Batch]:
        """This rank's micro-batches of global step `step` (from 0); equally many, equally large on every rank."""
        chosen = global_batch(
            seed=self.seed, step=step, batch_size=self.global_batch_size, num_samples=len(self.encoded)
        )
        num_labels = int(self._num_labels[chosen].sum())
        own = chosen[np.argsort(self._lengths[chosen], kind="stable")][self.rank :: self.world_size]
        starts = range(0, len(own), self.micro_batch_size)
        pieces = [[self.encoded[place] for place in own[start : start + self.micro_batch_size]] for start in starts]
        return [self._collate(piece, num_global_labels=num_labels) for piece in pieces]

    def _collate(self, samples: Sequence[Encoded], *, num_global_labels: int) -> Batch:
        image_ids = [sample.image_id for sample in samples]
        unique = dict.fromkeys(name for name in image_ids if name is not None)
        images = {name: place for place, name in enumerate(unique)}
        index = [-1 if name is None else images[name] for name in image_ids]
        input_ids = padded([sample.input_ids for sample in samples], value=self.pad_token_id)
        ones = [(1,) * len(sample.input_ids) for sample in samples]
        return Batch(
            input_ids=input_ids,
            attention_mask=padded(ones, value=0),
            labels=padded([sample.labels for sample in samples], value=IGNORED),
            visual_features=self._features(list(images)),
            image_index=torch.tensor(index, dtype=torch.int64),
            num_global_labels=num_global_labels,
            sample_ids=tuple(sample.id for sample in samples),
        )

    def _features(self, image_ids: Sequence[str]) -> Tensor:
        if self.features is None or not image_ids:
            return torch.zeros(0, *self.feature_shape)
        return self.features.load(image_ids)


def padded(rows: Sequence[Sequence[int]], *, value: int) -> Tensor:
    """(B, T) int64: the rows, filled up on the right with `value` to the longest."""
    table = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)


def _check_sizes(global_batch_size: int, *, micro_batch_size: int, rank: int, world_size: int) -> None:
    if min(global_batch_size, micro_batch_size, world_size) < 1 or not 0 <= rank < world_size:
        sizes = f"{global_batch_size}, {micro_batch_size}, rank {rank} of {world_size}"
        raise ValueError(f"batch sizes must be positive and the rank below the number of ranks, got {sizes}")
    if global_batch_size % world_size:
        nearest = max(1, global_batch_size // world_size) * world_size
        raise ValueError(
            f"global_batch_size {global_batch_size} must divide among {world_size} ranks; {nearest} would, for example"
        )


def _check_images(encoded: Sequence[Encoded], *, features: FeatureStore | None, feature_shape: tuple[int, int]) -> None:
    if not len(encoded):
        raise ValueError("there are no samples to train on; check the data file and max_length")
    if features is not None and features.feature_shape != tuple(feature_shape):
        raise ValueError(f"features are {features.feature_shape} per image, the model expects {tuple(feature_shape)}")
    for sample in encoded:
        if sample.image_id is not None and (features is None or sample.image_id not in features):
            where = "no feature store was given" if features is None else "the feature store does not have it"
            raise ValueError(f"sample {sample.id!r} needs image {sample.image_id!r}, but {where}; extract its features")
