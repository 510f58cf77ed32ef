"""A Reading is all that the layers need to know during one call: which tokens see which image, and its rows."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from memvp_core.arrange import NO_IMAGE, Arrangement, arrange
from memvp_core.config import MemVPConfig
from memvp_core.memory import Activation, Entries, Form, choose_form, entries_for, read_form
from memvp_core.prompt import ScaledParts


@dataclass(frozen=True)
class Reading:
    """The memory of one call, arranged for its batch."""

    entries: Entries
    """Keys and values in the order of the arrangement."""

    arrangement: Arrangement
    """Which part of the batch reads which entry."""

    form: Form
    """How the retrieval is computed."""

    dropout: float
    """On the activations; 0 outside training."""

    decoding: "Reading | None" = None
    """What a single new token reads when the index names an image per token: the image of the last one."""

    def retrieve(self, x: Tensor, *, layer: int, activation: Activation) -> Tensor:
        """What x (B, T, D) retrieves in a layer, counted over the layers with memory."""
        if self.decoding is not None and x.shape[1] == 1:
            return self.decoding.retrieve(x, layer=layer, activation=activation)
        found = read_form(
            x.to(self.entries.dtype),
            entries=self.entries.of_layer(layer),
            arrangement=self.arrangement_of(x),
            activation=activation,
            dropout=self.dropout,
            form=self.form,
        )
        return found.to(x.dtype)

    def arrangement_of(self, x: Tensor) -> Arrangement:
        """Beam search and several returned sequences bring every row of the batch several times."""
        times, rest = divmod(x.shape[0], self.arrangement.batch_size)
        num_tokens = self.arrangement.num_tokens
        if rest or not times or num_tokens not in (None, x.shape[1]):
            raise ValueError(
                f"image_index is for {tuple(self.arrangement.index.shape)} (batch, tokens), but a layer was given "
                f"{tuple(x.shape[:2])}; the index must have one row per sequence and one column per token."
            )
        return self.arrangement.repeat(times)


def make_reading(
    parts: ScaledParts,
    *,
    image_index: Int[Tensor, "B"] | Int[Tensor, "B T"],
    config: MemVPConfig,
    is_training: bool,
    is_generating: bool = False,
) -> Reading:
    """Arrange what the prompt gave for the batch that `image_index` describes."""
    key_rows, value_rows, key_positions, value_positions = parts
    arrangement = arrange(image_index, device=key_rows.device)
    form = choose_form(config.method, dtype=key_rows.dtype, shared_positions=config.share_position_embedding)
    entries = entries_for(
        arrangement,
        key_rows=key_rows,
        value_rows=value_rows,
        key_positions=key_positions,
        value_positions=value_positions,
        insert_in=config.insert_in,
        padded_rows=config.padded_rows,
        no_image=config.no_image,
    )
    if form != "split" and config.share_position_embedding:
        # Once per call instead of once per layer.
        entries = entries.folded()
    reading = Reading(entries, arrangement, form=form, dropout=config.memory_dropout if is_training else 0.0)
    if not is_generating or arrangement.num_tokens is None:
        return reading
    decoding = make_reading(parts, image_index=image_index[:, -1], config=config, is_training=is_training)
    return replace(reading, decoding=decoding)


def checked_index(
    image_index: Tensor | None, *, batch_shape: torch.Size, num_images: int, has_images: bool
) -> Int[Tensor, "B"] | Int[Tensor, "B T"]:
    """The index of a batch (B, T), on the CPU; without one, sequence i has image i, or none has an image."""
    batch_size, num_tokens = batch_shape[:2]
    if image_index is None:
        return _index_in_order(batch_size, num_images=num_images, has_images=has_images)
    index = image_index.cpu()
    if index.is_floating_point() or tuple(index.shape) not in ((batch_size,), (batch_size, num_tokens)):
        raise ValueError(
            f"image_index must hold whole numbers, one per sequence ({batch_size},) or per token "
            f"({batch_size}, {num_tokens}); got {index.dtype} of shape {tuple(index.shape)}."
        )
    if index.numel() and (int(index.max()) >= num_images or int(index.min()) < NO_IMAGE):
        wrong = int(index.max()) if int(index.max()) >= num_images else int(index.min())
        raise ValueError(
            f"image_index holds {wrong}, but there are {num_images} images here: "
            f"use 0 to {num_images - 1}, or {NO_IMAGE} for no image."
        )
    return index


def _index_in_order(batch_size: int, *, num_images: int, has_images: bool) -> Tensor:
    if not has_images:
        return torch.full((batch_size,), NO_IMAGE)
    if num_images != batch_size:
        raise ValueError(
            f"there are {num_images} images for {batch_size} sequences: give image_index, the image of each sequence."
        )
    return torch.arange(batch_size)
