"""What a call may bring as images: features of the right width, rows that fit the slots, numbers of their images."""

import torch
from torch import Tensor

from memvp_core.config import MemVPConfig


def check_features(features: Tensor, *, config: MemVPConfig) -> None:
    """Features are (I, g, vision_hidden_size)."""
    width = config.vision_hidden_size
    if features.ndim != 3 or features.shape[-1] != width:
        raise ValueError(
            f"visual features must have the shape (images, rows, {width}), got {tuple(features.shape)}: "
            "the model was made for another vision tower."
        )


def check_rows(shape: torch.Size, *, row_images: Tensor | None, config: MemVPConfig) -> None:
    """`shape` is (I, g): images and rows; `row_images` says which image of its entry each row shows."""
    if shape[1] > config.num_slots and config.position_mode == "add":
        raise ValueError(
            f"an image has {shape[1]} rows here, but the memory has only {config.num_slots} slots: "
            f"set num_slots to at least {shape[1]}."
        )
    if row_images is None:
        return
    if row_images.shape != shape or row_images.is_floating_point():
        raise ValueError(
            f"row_images must hold one whole number per row, {tuple(shape)}; "
            f"got {row_images.dtype} of shape {tuple(row_images.shape)}."
        )
    if config.num_images > 1 and row_images.numel() and int(row_images.max()) >= config.num_images:
        raise ValueError(
            f"an entry holds {int(row_images.max()) + 1} images here, but there are {config.num_images} image "
            f"embeddings: set num_images to at least {int(row_images.max()) + 1}."
        )
