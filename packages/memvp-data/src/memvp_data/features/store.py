"""Image features by image id: one safetensors member per image in a folder of feature shards."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from memvp_data.features.mapped import MappedShards
from memvp_data.features.rows import DTYPES, fill_rows, is_finite
from memvp_data.files.storage import ShardError
from memvp_data.ids import listed
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.quarantine import Quarantine
from memvp_data.shards.reader import OnDamage, ShardReader, Verify

SUFFIX = "safetensors"
_NAME = "features"
_CACHED_BYTES = 1 << 30
_STREAMED_AT_ONCE = 32
_MAX_HEADER_BYTES = 64 << 10


def feature_record(features: Tensor) -> bytes:
    """The member of one image: its features (g, c), finite, in their own dtype."""
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating point (g, c), got {features.dtype} {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError(f"features hold NaN or infinity as {features.dtype}; extract them in float32 or bfloat16")
    return save({_NAME: features.detach().cpu().contiguous()})


def parse_features(data: bytes) -> Tensor:
    """The features (g, c) of `feature_record`. Raises `ValueError` for any other bytes, and for NaN and infinity."""
    try:
        if int.from_bytes(data[:8], "little") > _MAX_HEADER_BYTES:
            raise ValueError(f"its header claims over {_MAX_HEADER_BYTES:,} bytes")
        features = load(data)[_NAME]
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"no safetensors record with a tensor {_NAME!r} ({error})") from None
    if features.ndim != 2 or features.dtype not in DTYPES or not features.numel():
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"features are {features.dtype} {tuple(features.shape)}, expected (g, c) in one of {kinds}")
    if not is_finite(features):
        raise ValueError("features hold NaN or infinity")
    return features


def pooled(features: Tensor, *, side: int) -> Tensor:
    """The rows of a square grid of patches (n * n, c), averaged in blocks to (side * side, c), in float32 inside.

    It trades detail for disk: 24 x 24 rows to 12 x 12 take a quarter. Rows that are no patches (CLS) must be off.
    """
    before = round(features.shape[0] ** 0.5)
    if before**2 != features.shape[0] or side < 1 or before % side:
        raise ValueError(
            f"{features.shape[0]} rows must be a square grid whose side {side} divides; choose another side"
        )
    step = before // side
    blocks = features.float().reshape(side, step, side, step, -1)
    return blocks.mean(dim=(1, 3)).reshape(side * side, -1).to(features.dtype)


class FeatureStore:
    """The features of a folder, all of one shape. Below 1 GiB all are read at the first use and kept."""

    def __init__(self, folder: Path | str, *, verify: Verify = "size", on_damage: OnDamage = "fail") -> None:
        """Modes as of `ShardReader`: what is not hashed now is hashed when it is first read."""
        self._reader = ShardReader(folder, verify=verify, on_damage=on_damage)
        if not len(self._reader):
            raise ShardError(f"{folder} holds no features; extract features of at least one image into it")
        first = self._parsed(next(iter(self._reader)))
        self._header = feature_record(first)[: -first.numel() * first.element_size()]
        self._shape, self._dtype = (int(first.shape[0]), int(first.shape[1])), first.dtype
        num_bytes = len(self._reader) * first.numel() * first.element_size()
        self._places = {key: place for place, key in enumerate(self._reader)}
        self._is_small, self._cache = num_bytes < _CACHED_BYTES, None
        self._maps = MappedShards(self._reader)
        self._finite = np.zeros(self._reader.num_members, dtype=bool)

    @property
    def manifest(self) -> Manifest:
        """Manifest of the folder."""
        return self._reader.manifest

    @property
    def meta(self) -> dict[str, Any]:
        """How the features were made."""
        return self.manifest.meta

    @property
    def quarantine(self) -> Quarantine | None:
        """The account of what was left out, if damage is to be left out."""
        return self._reader.quarantine

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(g, c): rows per image and their width."""
        return self._shape

    @property
    def num_rows(self) -> int:
        """g."""
        return self._shape[0]

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def load(self, image_ids: Sequence[str], dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, g, c): the features of these images in this order. Raises `ShardError` for an image that is not there."""
        if missing := [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self._places]:
            what = f"image {missing[0]!r}" if len(missing) == 1 else f"{len(missing):,} images ({listed(missing)})"
            raise ShardError(f"no features of {what} in {self._reader.folder}; extract them for it")
        if self._is_small and image_ids:
            return self._all()[[self._places[image_id] for image_id in image_ids]].to(dtype)
        return self._read(image_ids).to(dtype)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """(image id, features (g, c) as stored) of all images in the order of the shards, read forwards."""
        if not self._reader.is_local:
            for image_id, members in self._reader.stream():
                yield image_id, self._checked(self._parse(members, image_id), image_id)
            return
        names = iter(self._places)
        while image_ids := list(islice(names, _STREAMED_AT_ONCE)):
            yield from zip(image_ids, self._read(image_ids), strict=True)

    def _read(self, image_ids: Sequence[str]) -> Tensor:
        found = self._unfilled(len(image_ids))
        places: Sequence[int] = range(len(image_ids))
        if self._reader.is_local and image_ids:
            places = fill_rows(found, image_ids, shards=self._maps, header=self._header, finite=self._finite)
        for place in places:
            found[place] = self._checked(self._parsed(image_ids[place]), image_ids[place])
        return found

    def _unfilled(self, count: int) -> Tensor:
        """(count, g, c). numpy asks for large pages where torch does not: a tenth of the time of a batch."""
        num_bytes = self._shape[0] * self._shape[1] * self._dtype.itemsize
        place = torch.from_numpy(np.empty((max(count, 1), num_bytes), dtype=np.uint8))
        return place.view(self._dtype).reshape(-1, *self._shape)[:count]

    def _all(self) -> Tensor:
        if self._cache is None:
            cache = torch.empty(len(self), *self._shape, dtype=self._dtype)
            for place, (_, features) in enumerate(self.stream()):
                cache[place] = features
            self._cache = cache
        return self._cache

    def _parsed(self, image_id: str) -> Tensor:
        return self._parse(self._reader.read(image_id), image_id)

    def _parse(self, members: dict[str, bytes], image_id: str) -> Tensor:
        try:
            return parse_features(members.get(SUFFIX, b""))
        except ValueError as error:
            raise ShardError(f"{self._where(image_id)}: {error}; extract the features again") from None

    def _checked(self, features: Tensor, image_id: str) -> Tensor:
        if features.shape != self._shape or features.dtype != self._dtype:
            got, expected = (features.dtype, tuple(features.shape)), (self._dtype, self._shape)
            raise ShardError(f"{self._where(image_id)}: features are {got}, all others {expected}; extract them again")
        return features

    def _where(self, image_id: str) -> str:
        return f"shard {self._reader.folder.where(self._reader.shard_of(image_id))}, key {image_id!r}"
