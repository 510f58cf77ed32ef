"""The one preprocessing of each vision tower: an RGB image to the normalised square that the tower was trained on."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memvp_data.images.colours import as_rgb

# Neither an image nor anything made on the way has more.
MAX_PIXELS = 50_000_000

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square input of a vision tower; bicubic throughout, as CLIP's and LLaVA's."""

    size: int
    """Side of the result in pixels."""
    resize: Literal["squash", "crop", "pad"]
    """squash: ignore the aspect; crop: resize the shorter side, keep the centre; pad: to a mean-coloured square."""
    mean: tuple[float, float, float]
    """Subtracted from values in [0, 1], per channel."""
    std: tuple[float, float, float]
    """Divisor after that, per channel."""
    crop_from: int | None = None
    """Length of the shorter side before the crop; none takes `size`."""


PREPROCESSING: dict[str, Preprocessing] = {
    # CLIP as published, frames of videos, and LLaVA's first stage.
    "clip_224": Preprocessing(224, "crop", CLIP_MEAN, CLIP_STD),
    "clip_336": Preprocessing(336, "crop", CLIP_MEAN, CLIP_STD),
    # LLaVA-1.5's second stage.
    "clip_336_pad": Preprocessing(336, "pad", CLIP_MEAN, CLIP_STD),
    # VL-Adapter's grid features of the CLIP ResNet, and MemVP's on BART and T5.
    "clip_squash_224": Preprocessing(224, "squash", CLIP_MEAN, CLIP_STD),
    # MemVP's and LaVIN's released code on ScienceQA; not the statistics that its tower was trained with.
    "imagenet_squash_224": Preprocessing(224, "squash", IMAGENET_MEAN, IMAGENET_STD),
    "siglip_224": Preprocessing(224, "squash", HALF, HALF),
    "siglip_384": Preprocessing(384, "squash", HALF, HALF),
    "dinov2_224": Preprocessing(224, "crop", IMAGENET_MEAN, IMAGENET_STD, crop_from=256),
    "toyworld_96": Preprocessing(96, "squash", HALF, HALF),
}


def preprocess(image: Image.Image, *, preprocessing: str) -> NDArray[np.float32]:
    """The image as float32 (3, S, S), normalised as `PREPROCESSING[preprocessing]` says."""
    if preprocessing not in PREPROCESSING:
        raise ValueError(f"unknown preprocessing {preprocessing!r}; known: {', '.join(PREPROCESSING)}")
    settings = PREPROCESSING[preprocessing]
    pixels = np.asarray(_RESIZERS[settings.resize](as_rgb(image), settings))
    normalised = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, values in enumerate(_normalised(settings.mean, settings.std)):
        np.take(values, pixels[..., channel], out=normalised[channel], mode="clip")
    return normalised


@lru_cache
def _normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """(3, 256): what each byte becomes in each channel. Looking up is faster than calculating for every pixel."""
    values = np.arange(256, dtype=np.float32) / 255
    normalised = (values - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
    return normalised.astype(np.float32, copy=False)


def _squash(image: Image.Image, settings: Preprocessing) -> Image.Image:
    return _resized(image, width=settings.size, height=settings.size)


def _crop(image: Image.Image, settings: Preprocessing) -> Image.Image:
    """As CLIPImageProcessor: the longer side is cut to whole pixels, so is the corner of the crop."""
    size, shorter = settings.size, min(image.size)
    wanted = settings.crop_from or size
    width, height = (wanted if side == shorter else int(wanted * side / shorter) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return _resized(image, width=width, height=height).crop((left, top, left + size, top + size))


def _pad(image: Image.Image, settings: Preprocessing) -> Image.Image:
    """As LLaVA's `expand2square`, then to the wanted size."""
    if max(image.size) ** 2 > MAX_PIXELS:
        # The square would be larger than any image we decode; nothing is lost, the result is far smaller still.
        limit = int(MAX_PIXELS**0.5)
        image = image.copy()
        image.thumbnail((limit, limit), Image.Resampling.BICUBIC)
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * value) for value in settings.mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return _resized(canvas, width=settings.size, height=settings.size)


def _resized(image: Image.Image, *, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


_RESIZERS = {"squash": _squash, "crop": _crop, "pad": _pad}
