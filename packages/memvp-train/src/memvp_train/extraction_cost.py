"""What storing features takes: bytes on disk as the shards have them, and the tower's time by a trace."""

from dataclasses import dataclass, replace

import torch

from memvp_data.features import feature_record
from memvp_data.preprocessing import PREPROCESSING
from memvp_data.tar_format import end_of
from memvp_train.config import ConfigError, VisionConfig
from memvp_train.features import image_features
from memvp_train.machines import Machine
from memvp_train.models import build_tower
from memvp_train.trace import tracing

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
        ConfigError: the preprocessing is unknown.
        ModelError: the tower's config is not found.
    """
    if vision.preprocessing not in PREPROCESSING:
        raise ConfigError(f"vision.preprocessing {vision.preprocessing!r} is unknown; take {', '.join(PREPROCESSING)}")
    side = PREPROCESSING[vision.preprocessing].size
    with torch.device("meta"):
        tower = build_tower(replace(vision, random_init=True))
        pixels = torch.empty(vision.batch_size, 3, side, side)
    with tracing(num_selected=0, fuses_all_attention=machine.fuses_all_attention) as trace:
        _, num_rows, width = image_features(tower, pixels, vision=vision).shape
    dtype = getattr(torch, vision.feature_dtype)
    weights = sum(parameter.nbytes for parameter in tower.parameters())
    return ExtractionCost(
        num_rows=num_rows,
        width=width,
        disk_bytes=num_images * stored_bytes(num_rows, width, dtype=dtype),
        memory_bytes=weights + pixels.nbytes + trace.peak_bytes,
        seconds=num_images / vision.batch_size / max(1, num_workers) * trace.seconds(machine),
    )


def stored_bytes(num_rows: int, width: int, *, dtype: torch.dtype) -> int:
    """Bytes of one image in a feature shard: its record, the tar header before it and the padding after it."""
    size = num_rows * width * dtype.itemsize
    header = len(feature_record(torch.zeros(1, width, dtype=dtype))) - width * dtype.itemsize
    return end_of(_HEADER + header + size)
