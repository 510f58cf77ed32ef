"""What storing features takes: bytes on disk as the shards have them, and the tower's time by a trace."""

from dataclasses import dataclass

import torch

from memvp_data.features import feature_record
from memvp_data.images.preprocessing import PREPROCESSING
from memvp_data.shards.tar import end_of
from memvp_train.config import VisionConfig
from memvp_train.cost_model.hardware import Machine
from memvp_train.cost_model.trace import tracing
from memvp_train.features.extract import image_features
from memvp_train.models.vision import build_tower, feature_shape

_HEADER = 512


@dataclass(frozen=True)
class ExtractionCost:
    """Storing the features of a set of images."""

    num_rows: int
    """Rows of an image."""
    width: int
    """Width of a row."""
    disk_bytes: int
    """Feature shards, without their index (some 100 bytes per image)."""
    memory_bytes: int
    """Of one worker: the tower and what a batch of images holds."""
    seconds: float
    """Of the tower alone: reading and decoding the images is not in it."""


def extraction_cost(vision: VisionConfig, *, num_images: int, num_workers: int, machine: Machine) -> ExtractionCost:
    """Cost of the features of `num_images` images by so many workers.

    Raises:
        ModelError: the tower's config is not found, or the tower does not give what is asked of it.
    """
    tower, side = build_tower(vision, meta=True), PREPROCESSING[vision.preprocessing].size
    shape = feature_shape(vision)
    pixels = torch.empty(vision.batch_size, 3, side, side, device="meta")
    with tracing(num_selected=0, fuses_all_attention=machine.fuses_all_attention) as trace:
        image_features(tower, pixels, vision=vision)
    dtype = getattr(torch, vision.feature_dtype)
    weights = sum(parameter.nbytes for parameter in tower.parameters())
    return ExtractionCost(
        num_rows=shape.num_rows,
        width=shape.width,
        disk_bytes=num_images * stored_bytes(shape.num_rows, shape.width, dtype=dtype),
        memory_bytes=weights + pixels.nbytes + trace.peak_bytes,
        seconds=num_images / vision.batch_size / max(1, num_workers) * trace.seconds(machine),
    )


def stored_bytes(num_rows: int, width: int, *, dtype: torch.dtype) -> int:
    """Bytes of one image in a feature shard: its record, the tar header before it and the padding after it."""
    size = num_rows * width * dtype.itemsize
    header = len(feature_record(torch.zeros(1, width, dtype=dtype))) - width * dtype.itemsize
    return end_of(_HEADER + header + size)
