"""What a micro-batch holds of images: one entry for each different tuple of images, their rows side by side.

Samples about the same images share an entry. Where some have several images, shorter entries are filled up with zeros,
and `row_images` says of every row which image of its entry it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

ImageIds = tuple[str, ...]
_PADDING = -1


class ImageSource(Protocol):
    """Images by their id, as the model takes them; `FeatureStore` and `PixelStore` are such."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of what `load` gives for one image: features (g, c), or pixels (3, S, S)."""
        ...

    @property
    def num_rows(self) -> int:
        """g, the rows that an image brings to the memory."""
        ...

    def __contains__(self, image_id: object, /) -> bool: ...
    def load(self, image_ids: Sequence[str], /) -> Tensor: ...


@dataclass(frozen=True)
class ShownImages:
    """The images of a micro-batch as I entries."""

    tensor: Tensor
    """(I, g, c) features, or pixels (I, 3, S, S), with several images (I, F, 3, S, S)."""
    row_images: Tensor | None
    """(I, g) int64, see `Batch.row_images`."""
    is_pixels: bool


def shown_images(
    entries: Sequence[ImageIds], *, source: ImageSource | None, feature_shape: tuple[int, ...]
) -> ShownImages:
    """Load the images of different entries, each once. Without any it is (0, *feature_shape).

    Of pixels there is always one image, a blank one if need be: it goes through the tower and nobody reads it, so that
    every rank of ZeRO-3 runs the tower equally often, and adapters in it have a gradient, of zeros.
    """
    is_pixels = len(feature_shape) == 3
    if source is None or not entries:
        return ShownImages(torch.zeros(int(is_pixels), *feature_shape), None, is_pixels)
    names = list(dict.fromkeys(name for images in entries for name in images))
    loaded = source.load(names)
    if all(len(images) == 1 for images in entries):
        return ShownImages(loaded, None, is_pixels)
    numbers, places = _numbered(entries), {name: place for place, name in enumerate(names)}
    shown = loaded.new_zeros(*numbers.shape, *loaded.shape[1:])
    shown[numbers >= 0] = loaded[[places[name] for images in entries for name in images]]
    row_images = numbers.repeat_interleave(source.num_rows, dim=1)
    return ShownImages(shown if is_pixels else shown.flatten(1, 2), row_images, is_pixels)


def _numbered(entries: Sequence[ImageIds]) -> Tensor:
    """(I, F) int64: 0, 1, ... for the images of each entry, then padding."""
    most = max(map(len, entries))
    return torch.tensor([[*range(len(images)), *[_PADDING] * (most - len(images))] for images in entries])
