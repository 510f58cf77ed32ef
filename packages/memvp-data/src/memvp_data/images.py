"""Decode images from outside safely, and the one preprocessing of each vision tower.

Only JPEG, PNG and WebP are opened, recognised by their content. Sizes are checked in the header, before any pixel is
decoded, so that a small file cannot ask for gigabytes.
"""

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memvp_data.samples import from_id

MAX_PIXELS = 50_000_000
MAX_BYTES = 64 << 20
MAX_ASPECT = 100
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, zlib.error)

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class ImageError(ValueError):
    """An image that is missing, too large, damaged or of another format."""


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


def load_image(source: Path | bytes, *, name: str) -> Image.Image:
    """Decode to RGB (the first frame; transparency and EXIF rotation are ignored, as in LLaVA).

    Raises `ImageError` naming `name` for anything but a whole JPEG, PNG or WebP of at most `MAX_PIXELS` pixels.
    """
    return _decode(_read(source, name=name), name=name)[0]


def preprocess(image: Image.Image, *, preprocessing: str) -> NDArray[np.float32]:
    """The image as float32 (3, S, S), normalised as `PREPROCESSING[preprocessing]` says."""
    if preprocessing not in PREPROCESSING:
        raise ValueError(f"unknown preprocessing {preprocessing!r}; known: {', '.join(PREPROCESSING)}")
    settings = PREPROCESSING[preprocessing]
    square = _RESIZERS[settings.resize](image.convert("RGB"), settings)
    pixels = np.asarray(square, dtype=np.float32) / 255
    normalised = (pixels - np.asarray(settings.mean, np.float32)) / np.asarray(settings.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), dtype=np.float32)


def image_records(image_ids: Iterable[str], *, image_root: Path | str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(image id, {suffix: file bytes}) for `write_shards`, in the given order; each is decoded once as a check."""
    for image_id in image_ids:
        name = from_id(image_id)
        data = _read(Path(image_root, name), name=name)
        _, suffix = _decode(data, name=name)
        yield image_id, {suffix: data}


def _read(source: Path | bytes, *, name: str) -> bytes:
    if isinstance(source, Path) and not source.is_file():
        raise ImageError(f"image {name!r}: there is no file {source}; put it there or take the record out")
    num_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    if num_bytes > MAX_BYTES:
        raise ImageError(f"image {name!r} has {num_bytes:,} bytes, more than the {MAX_BYTES:,} allowed; shrink it")
    return source if isinstance(source, bytes) else source.read_bytes()


def _decode(data: bytes, *, name: str) -> tuple[Image.Image, str]:
    """The RGB image and the file suffix of its true format."""
    image, detail = _open(data, name=name)
    _check_size(image.size, name=name)
    try:
        return image.convert("RGB"), _SUFFIXES.get(detail, "jpg")  # Pillow calls a JPEG with previews "MPO"
    except _DECODE_ERRORS as error:
        raise ImageError(f"image {name!r} is damaged or truncated ({error}); fetch it again") from None


def _open(data: bytes, *, name: str) -> tuple[Image.Image, str]:
    """Read the header only."""
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels; our own limit is lower and refuses below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=list(_SUFFIXES))
    except Image.DecompressionBombError as error:
        raise ImageError(f"image {name!r} is too large ({error}); shrink it below {MAX_PIXELS:,} pixels") from None
    except _DECODE_ERRORS:
        raise ImageError(f"image {name!r} is not a readable JPEG, PNG or WebP file; convert or replace it") from None
    return image, image.format or ""


def _check_size(size: tuple[int, int], *, name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(f"image {name!r} is {width} x {height}, more than {MAX_PIXELS:,} pixels; shrink it")
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(f"image {name!r} is {width} x {height}; one side may be {MAX_ASPECT} times the other, crop it")


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
