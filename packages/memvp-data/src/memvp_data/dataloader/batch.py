"""A micro-batch as tensors: rows of one sample each, or packed rows, in which several samples stand side by side.

In a packed row positions start again with each sample, attention stays within it (`attention_bias`), and every token
says which image it reads: nothing crosses from one sample to the next. For an encoder-decoder the tokens of a sample
that are not learnt are the encoder's, the others the decoder's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from memvp_data.dataloader.batch_images import ImageIds, ShownImages
from memvp_data.text import IGNORED, Encoded


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B rows and T tokens, on the CPU."""

    input_ids: Tensor
    """(B, T) int64, padded on the right."""
    attention_mask: Tensor
    """(B, T) int64: 1 for tokens, 0 for padding."""
    labels: Tensor
    """(B, T) int64, -100 where nothing is learnt; not shifted. (B, L) of the decoder, see `decoder_input_ids`."""
    visual_features: Tensor
    """(I, g, c) float32 of the I different images, or groups of images; (0, g, c) if there are none."""
    image_index: Tensor
    """(B,) int64: entry of the images, -1 = no image; (B, T) in packed rows."""
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
    row_images: Tensor | None = None
    """(I, g) int64, which image of its entry a row shows, -1 for padding; None if every entry is one image."""
    pixel_values: Tensor | None = None
    """(I, 3, S, S) float32 for a live tower, with several images (I, F, 3, S, S); `visual_features` is then empty."""
    decoder_input_ids: Tensor | None = None
    """(B, L) int64: `labels` moved right by one, after the token that starts them; None for a causal model."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples, padding not counted."""
        num_decoded = 0 if self.decoder_input_ids is None else int((self.labels != IGNORED).sum())
        return int(self.attention_mask.sum()) + num_decoded

    @property
    def num_entries(self) -> int:
        """I, the different images, or groups of images, that its samples read."""
        return int(self.image_index.max()) + 1

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
    shown: ShownImages,
    entries: Mapping[ImageIds, int],
    pad_token_id: int,
    num_global_labels: int,
    is_packed: bool,
    decoder_start_token_id: int | None = None,
) -> Batch:
    """A batch of rows; unless `is_packed` each has one segment. `entries` gives each group of images its entry.

    With `decoder_start_token_id` the batch is for an encoder-decoder.
    """

    def column(values: Sequence[Sequence[Sequence[int]]], *, value: int) -> Tensor:
        return padded([[number for part in row for number in part] for row in values], value=value)

    samples = [[segment.sample for segment in row] for row in rows]
    is_pair = decoder_start_token_id is not None
    inputs = [[_unlearnt(one) if is_pair else one.input_ids for one in row] for row in samples]
    targets = [[_learnt(one) if is_pair else one.labels for one in row] for row in samples]
    index = [[entries[one.image_ids] if one.image_ids else -1 for one in row] for row in samples]
    lengths = [list(map(len, row)) for row in inputs]
    if is_packed:
        image_index = column(_spread(index, lengths), value=-1)
    else:
        image_index = torch.tensor([row[0] for row in index], dtype=torch.int64)
    places = [list(range(len(row))) for row in samples]
    labels = column(targets, value=IGNORED)
    return Batch(
        input_ids=column(inputs, value=pad_token_id),
        attention_mask=column(_spread([[1] * len(row) for row in samples], lengths), value=0),
        labels=labels,
        visual_features=torch.zeros(0, 1, 1) if shown.is_pixels else shown.tensor,
        image_index=image_index,
        num_global_labels=num_global_labels,
        sample_ids=tuple(one.id for row in samples for one in row),
        label_weights=_label_weights(rows, targets),
        position_ids=column([[range(length) for length in row] for row in lengths], value=0) if is_packed else None,
        segments=column(_spread(places, lengths), value=-1) if is_packed else None,
        row_images=shown.row_images,
        pixel_values=shown.tensor if shown.is_pixels else None,
        decoder_input_ids=shifted_right(labels, start=decoder_start_token_id, padding=pad_token_id)
        if decoder_start_token_id is not None
        else None,
    )


def shifted_right(labels: Tensor, *, start: int, padding: int) -> Tensor:
    """(B, L) what a decoder reads to say `labels`: each one label later, as BART and T5 of transformers do it."""
    moved = labels.new_full(labels.shape, start)
    moved[:, 1:] = labels[:, :-1]
    return moved.masked_fill(moved == IGNORED, padding)


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


def _unlearnt(sample: Encoded) -> list[int]:
    return [token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label == IGNORED]


def _learnt(sample: Encoded) -> list[int]:
    return [label for label in sample.labels if label != IGNORED]


def _label_weights(rows: Sequence[Sequence[Segment]], targets: Sequence[Sequence[Sequence[int]]]) -> Tensor | None:
    if all(segment.weight == 1 for row in rows for segment in row):
        return None
    lists = [
        [segment.weight for segment, labels in zip(*pair, strict=True) for _ in labels]
        for pair in zip(rows, targets, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float32) for row in lists], batch_first=True)
