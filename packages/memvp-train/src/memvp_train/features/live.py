"""Features of images as a tower sees them now, where they cannot be stored because adapters train in it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from memvp_core.vision.tower import VisionTower
from memvp_data.images.pixels import PixelStore
from memvp_train.config.models import VisionConfig
from memvp_train.models.vision import feature_shape


def pixel_store(images: Path | str, vision: VisionConfig) -> PixelStore:
    """The images of a folder of image shards, prepared for the tower of these settings."""
    how = {"preprocessing": vision.preprocessing, "upright": vision.upright}
    return PixelStore(images, **how, num_rows=feature_shape(vision).num_rows)


class LiveFeatures:
    """Features by image id, as a `FeatureStore` gives them, made by the tower at every `load`.

    To answer with a model that has adapters in its tower, load it with its tower and let it look at the image shards:

        model = MemVPModel.from_pretrained(language_model, adapter, build_tower(vision)).eval()
        source = LiveFeatures(model.vision_tower, pixel_store("images", vision), batch_size=vision.batch_size)
        memory = model.encode(source.load(["image-1", "image-2"]))
    """

    def __init__(self, tower: VisionTower, pixels: PixelStore, *, batch_size: int = 32) -> None:
        """`batch_size` images go through the tower at once; it may stand on any device."""
        self._tower, self._pixels, self._batch_size = tower, pixels, batch_size

    @property
    def num_rows(self) -> int:
        """Rows that an image brings to the memory."""
        return self._pixels.num_rows

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._pixels

    @torch.no_grad()
    def load(self, image_ids: Sequence[str]) -> Tensor:
        """(n, g, c) in the tower's dtype and on its device, in this order."""
        weight = next(self._tower.parameters())
        parts = [
            self._tower(self._pixels.load(image_ids[start : start + self._batch_size]).to(weight))
            for start in range(0, len(image_ids), self._batch_size)
        ]
        if not parts:
            raise ValueError("expected the names of one or more images, got none")
        return torch.cat(parts)
