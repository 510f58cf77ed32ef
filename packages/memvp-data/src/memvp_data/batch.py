"""A micro-batch as tensors: rows of one sample each, or packed rows, in which several samples stand side by side.

In a packed row positions start again with each sample, attention stays within it (`attention_bias`), and every token
says which image it reads: nothing crosses from one sample to the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from memvp_data.text import IGNORED, Encoded


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B rows and T tokens, on the CPU."""

    input_ids: Tensor
    """(B, T) int64, padded on the right."""
    attention_mask: Tensor
    """(B, T) int64: 1 for tokens, 0 for padding."""
    labels: Tensor
    """(B, T) int64, -100 where nothing is learnt; not shifted."""
    visual_features: Tensor
    """(I, g, c) float32 of the I different images; (0, g, c) if there are none."""
    image_index: Tensor
    """(B,) int64: entry of `visual_features`, -1 = no image; (B, T) in packed rows."""
    num_global_labels: int
    """What the summed loss is divided by, the same on all ranks: the global batch's label tokens, or its samples."""
    sample_ids: tuple[str, ...]
    """The ids of the samples, row by row."""
    label_weights: Tensor | None = None
    """(B, T) float32, what each label counts in the loss; None = 1 each."""
    position_ids: Tensor | None = None
    """(B, T) int64, from 0 in every sample; None unless packed."""
    segments: Tensor | None = None
    """(B, T) int64, which sample of its row a token belongs to, -1 for padding; None unless packed."""

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU run beside its work."""
        tensors = {name: value.pin_memory() for name, value in self.tensors()}
        return replace(self, **tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors by name."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield field.name, value


@dataclass(frozen=True)
class Segment:
    """A sample in a row."""

    sample: Encoded
    weight: float
    """Of each of its labels."""


def collate(
    rows: Sequence[Sequence[Segment]],
    *,
    visual_features: Tensor,
    images: Mapping[str, int],
    pad_token_id: int,
    num_global_labels: int,
    is_packed: bool,
) -> Batch:
    """A batch of rows; unless `is_packed` each has one segment. `images` gives each image's entry in the features."""

    def column(values: Sequence[Sequence[Sequence[int]]], *, value: int) -> Tensor:
        return padded([[number for part in row for number in part] for row in values], value=value)

    samples = [[segment.sample for segment in row] for row in rows]
    entry = {None: -1, **images}
    index = [[entry[one.image_id] for one in row] for row in samples]
    lengths = [[len(one.input_ids) for one in row] for row in samples]
    if is_packed:
        image_index = column(_spread(index, lengths), value=-1)
    else:
        image_index = torch.tensor([row[0] for row in index], dtype=torch.int64)
    places = [list(range(len(row))) for row in samples]
    return Batch(
        input_ids=column([[one.input_ids for one in row] for row in samples], value=pad_token_id),
        attention_mask=column(_spread([[1] * len(row) for row in samples], lengths), value=0),
        labels=column([[one.labels for one in row] for row in samples], value=IGNORED),
        visual_features=visual_features,
        image_index=image_index,
        num_global_labels=num_global_labels,
        sample_ids=tuple(one.id for row in samples for one in row),
        label_weights=_label_weights(rows),
        position_ids=column([[range(length) for length in row] for row in lengths], value=0) if is_packed else None,
        segments=column(_spread(places, lengths), value=-1) if is_packed else None,
    )


def attention_bias(segments: Tensor, *, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T) of `Batch.segments`: 0 where a token may look, back within its sample, else `dtype`'s lowest number.

    For attention that takes a bias instead of a mask: transformers' "eager" and "sdpa".
    """
    same = segments[:, :, None] == segments[:, None, :]
    allowed = same & torch.ones(same.shape[1:], dtype=torch.bool, device=segments.device).tril()
    bias = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def padded(rows: Sequence[Sequence[int]], *, value: int) -> Tensor:
    """(B, T) int64: the rows, filled up on the right with `value` to the longest."""
    table = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return torch.from_numpy(table)


def _spread(values: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Each sample's value once for each of its tokens."""
    return [[[value] * length for value, length in zip(*row, strict=True)] for row in zip(values, lengths, strict=True)]


def _label_weights(rows: Sequence[Sequence[Segment]]) -> Tensor | None:
    if all(segment.weight == 1 for row in rows for segment in row):
        return None
    lists = [[segment.weight for segment in row for _ in segment.sample.labels] for row in rows]
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float32) for row in lists], batch_first=True)
