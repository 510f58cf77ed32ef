"""Decode images from outside safely.

Only JPEG, PNG and WebP are opened, recognised by their content. Sizes are checked in the header, before any pixel is
decoded, so that a small file cannot ask for gigabytes. What becomes of the pixels is in preprocessing.py.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from os.path import isfile
from pathlib import Path

from PIL import Image

from memvp_data.ids import from_id, listed
from memvp_data.images.colours import as_rgb, turned_upright
from memvp_data.images.preprocessing import MAX_PIXELS, PREPROCESSING, Preprocessing, preprocess

__all__ = [
    "PREPROCESSING",
    "ImageError",
    "Preprocessing",
    "image_members",
    "image_num_bytes",
    "image_records",
    "load_image",
    "preprocess",
]

MAX_BYTES = 64 << 20
MAX_ASPECT = 100
MAX_FRAMES = 100
# A plain PNG of 3 bytes per pixel reaches 1,030. Below the size from which it is checked, any ratio is harmless.
MAX_RATIO, MAX_RATIO_FROM_PIXELS = 2_000, 4_000_000
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, MemoryError, OverflowError, struct.error, zlib.error)
# Filters of warnings belong to the process, images are decoded in threads.
_WARNINGS = threading.Lock()


class ImageError(ValueError):
    """An image that is missing, too large, damaged or of another format."""


def load_image(source: Path | bytes, *, name: str, upright: bool = True) -> Image.Image:
    """Decode to RGB as a person would see it: the first frame, on white, turned as EXIF says.

    `upright=False` leaves it as the pixels lie, as the scripts of LLaVA and of most benchmarks do.
    Raises `ImageError` naming `name` for anything but a whole JPEG, PNG or WebP of at most `MAX_PIXELS` pixels.
    """
    return _decode(_read(source, name=name), name=name, upright=upright)[0]


def image_records(image_ids: Iterable[str], *, image_root: Path | str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(image id, {suffix: file bytes}) for `write_shards`, in the given order; each is decoded once as a check.

    Files are looked up before the first is read: `ImageError` names ten of those that are missing, and their number.
    """
    image_ids = list(image_ids)
    _check_present([from_id(image_id) for image_id in image_ids], image_root=image_root)
    for image_id in image_ids:
        yield image_id, image_members(image_id, image_root=image_root)


def image_members(image_id: str, *, image_root: Path | str) -> dict[str, bytes]:
    """One image of `image_records`; with `partial`, what `write_shards_in_processes` calls."""
    name = from_id(image_id)
    data = _read(Path(image_root, name), name=name)
    _, suffix = _decode(data, name=name)
    return {suffix: data}


def image_num_bytes(image_id: str, *, image_root: Path | str) -> int:
    """The size of the file of an image."""
    name = from_id(image_id)
    return _file_size(Path(image_root, name), name=name)


def _read(source: Path | bytes, *, name: str) -> bytes:
    num_bytes = len(source) if isinstance(source, bytes) else _file_size(source, name=name)
    if num_bytes > MAX_BYTES:
        raise ImageError(f"image {name!r} has {num_bytes:,} bytes, more than the {MAX_BYTES:,} allowed; shrink it")
    return source if isinstance(source, bytes) else source.read_bytes()


def _check_present(names: list[str], *, image_root: Path | str) -> None:
    missing = [name for name in names if not isfile(Path(image_root, name))]
    if len(missing) > 1:
        images = f"{len(missing):,} images are not in {image_root} ({listed(missing)})"
        raise ImageError(f"{images}; put them there or take their records out")


def _file_size(path: Path, *, name: str) -> int:
    if not isfile(path):
        raise ImageError(f"image {name!r}: there is no file {path}; put it there or take the record out")
    return path.stat().st_size


def _decode(data: bytes, *, name: str, upright: bool = True) -> tuple[Image.Image, str]:
    """The RGB image and the file suffix of its true format."""
    image, detail = _open(data, name=name)
    _check_size(image.size, name=name)
    _check_bomb(image, num_bytes=len(data), name=name)
    try:
        image.load()
        shown = as_rgb(turned_upright(image) if upright else image)
    except _DECODE_ERRORS as error:
        raise ImageError(f"image {name!r} is damaged or truncated ({error}); fetch it again") from None
    return shown, _SUFFIXES.get(detail, "jpg")  # Pillow calls a JPEG with previews "MPO"


def _open(data: bytes, *, name: str) -> tuple[Image.Image, str]:
    """Read the header only."""
    try:
        with _WARNINGS, warnings.catch_warnings():
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


def _check_bomb(image: Image.Image, *, num_bytes: int, name: str) -> None:
    num_frames, num_pixels = getattr(image, "n_frames", 1), image.width * image.height
    if num_frames > MAX_FRAMES:
        raise ImageError(f"image {name!r} has {num_frames:,} frames, more than {MAX_FRAMES}; store the first one alone")
    if num_pixels > MAX_RATIO_FROM_PIXELS and 3 * num_pixels > MAX_RATIO * num_bytes:
        raise ImageError(
            f"image {name!r} unpacks {num_bytes:,} bytes to {num_pixels:,} pixels, more than {MAX_RATIO:,} times as "
            "much; store it smaller"
        )
