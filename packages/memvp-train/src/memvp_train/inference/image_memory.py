"""Which images a question is shown, and their memory: each encoded once, however many questions share it.

Dimensions: n images, g rows each, c the width of their features.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from memvp_core import MemVPModel, VisualMemory

ImageMode = Literal["own", "none", "other"]
Shown = tuple[str, ...]
"""Names of the images that one question is shown, side by side."""

# Of its own, so that neither the batch size nor the shard moves the rounding of an image's memory.
_ENCODED_AT_ONCE = 32


class PredictError(ValueError):
    """Questions cannot be answered with what was given."""


class FeatureSource(Protocol):
    """Features by image name: a FeatureStore, or a tower that looks at pixels."""

    def __contains__(self, image_id: object, /) -> bool: ...
    def load(self, image_ids: Sequence[str], /) -> Tensor:
        """(n, g, c)."""
        ...


def other_images(images: Iterable[Shown]) -> dict[str, str]:
    """Each image to another one: a rotation of the images in the order of first use by half their number.

    Deterministic, without a fixed point, and far enough that questions about one image do not come back to it.
    """
    names = list(dict.fromkeys(image_id for shown in images for image_id in shown))
    if len(names) == 1:
        raise PredictError(f"there is only one image, {names[0]!r}; showing another one needs two or more")
    shift = len(names) // 2
    return {image_id: names[(place + shift) % len(names)] for place, image_id in enumerate(names)}


def check_images(images: Iterable[Shown], *, source: FeatureSource | None) -> None:
    """Refuse images that the source does not have."""
    missing = sorted({name for shown in images for name in shown if source is None or name not in source})
    if missing:
        raise PredictError(
            f"{len(missing)} images have no features, first {missing[0]!r}; extract them, or use image='none'"
        )


class ImageMemory:
    """The memory of the images that some questions are shown; it stays on the CPU, a batch takes what it reads."""

    def __init__(self, model: MemVPModel, images: Iterable[Shown], *, source: FeatureSource | None) -> None:
        """Encodes at once every image that is named, once."""
        # In the order of their names, as feature shards are written: a disk reads them forwards.
        names = sorted({name for shown in images for name in shown})
        self._places = {name: place for place, name in enumerate(names)}
        self._memory = _encoded(model, names, source=source) if names and source is not None else None

    def read_by(self, batch: Sequence[Shown]) -> tuple[VisualMemory | None, Tensor]:
        """The entries that a batch reads, None if it shows no image, and (B,) which of them each question reads.

        Several images of a question are one entry, their rows side by side.
        """
        distinct = list(dict.fromkeys(shown for shown in batch if shown))
        entries = {shown: place for place, shown in enumerate(distinct)}
        index = torch.tensor([entries.get(shown, -1) for shown in batch])
        if self._memory is None or not distinct:
            return None, index
        memory = self._memory
        if all(len(shown) == 1 for shown in distinct):
            return memory[[self._places[name] for (name,) in distinct]], index
        joined = [VisualMemory.join([memory[self._places[name]] for name in shown]) for shown in distinct]
        return VisualMemory.cat(joined), index


def _encoded(model: MemVPModel, names: Sequence[str], *, source: FeatureSource) -> VisualMemory:
    device = next(model.parameters()).device
    blocks = [names[start : start + _ENCODED_AT_ONCE] for start in range(0, len(names), _ENCODED_AT_ONCE)]
    parts = [model.encode(source.load(block).to(device)).to("cpu") for block in blocks]
    return VisualMemory(torch.cat([part.codes for part in parts]), parts[0].projector)
