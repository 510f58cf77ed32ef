"""Image features by image id: one safetensors member per image in a folder of feature shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from memvp_data.manifest import Manifest, ShardError
from memvp_data.reader import ShardReader

SUFFIX = "safetensors"
_NAME = "features"
_CACHED_BYTES = 1 << 30


def feature_record(features: Tensor) -> bytes:
    """The member of one image: its features (g, c), finite, in their own dtype."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating point (g, c), got {features.dtype} {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError(f"features hold NaN or infinity as {features.dtype}; extract them in float32 or bfloat16")
    return save({_NAME: features.detach().cpu().contiguous()})


def parse_features(data: bytes) -> Tensor:
    """The features (g, c) of `feature_record`."""
    try:
        features = load(data)[_NAME]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"no safetensors record with a tensor {_NAME!r} ({error})") from None
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features are {features.dtype} {tuple(features.shape)}, expected floating point (g, c)")
    return features


class FeatureStore:
    """The features of a folder, all of one shape. Below 1 GiB all are read at the first use and kept."""

    def __init__(self, folder: Path | str) -> None:
        self._reader = ShardReader(folder)
        if not len(self._reader):
            raise ShardError(f"{folder} holds no features; extract features of at least one image into it")
        first = self._parsed(self._reader.keys()[0])
        self._shape, self._dtype = (int(first.shape[0]), int(first.shape[1])), first.dtype
        num_bytes = len(self._reader) * first.numel() * first.element_size()
        self._places = {key: place for place, key in enumerate(self._reader)}
        self._is_small, self._cache = num_bytes < _CACHED_BYTES, None

    @property
    def manifest(self) -> Manifest:
        """Manifest of the folder."""
        return self._reader.manifest

    @property
    def meta(self) -> dict[str, Any]:
        """How the features were made."""
        return self.manifest.meta

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(g, c): rows per image and their width."""
        return self._shape

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def load(self, image_ids: Sequence[str], dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, g, c): the features of these images in this order. Raises `ShardError` for an image that is not there."""
        if not image_ids:
            return torch.zeros(0, *self._shape, dtype=dtype)
        for image_id in image_ids:
            if image_id not in self._places:
                raise ShardError(f"no features of image {image_id!r} in {self._reader.folder}; extract them for it")
        if not self._is_small:
            return torch.stack([self._checked(image_id).to(dtype) for image_id in image_ids])
        if self._cache is None:
            self._cache = torch.stack([self._checked(image_id) for image_id in self._places])
        return self._cache[[self._places[image_id] for image_id in image_ids]].to(dtype)

    def _parsed(self, image_id: str) -> Tensor:
        try:
            return parse_features(self._reader.read(image_id).get(SUFFIX, b""))
        except ShardError:
            raise
        except ValueError as error:
            raise ShardError(f"{self._where(image_id)}: {error}; extract the features again") from None

    def _checked(self, image_id: str) -> Tensor:
        features = self._parsed(image_id)
        if features.shape != self._shape or features.dtype != self._dtype:
            got, expected = (features.dtype, tuple(features.shape)), (self._dtype, self._shape)
            raise ShardError(f"{self._where(image_id)}: features are {got}, all others {expected}; extract them again")
        return features

    def _where(self, image_id: str) -> str:
        return f"shard {self._reader.folder / self._reader.shard_of(image_id)}, key {image_id!r}"
