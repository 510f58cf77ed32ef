"""What a person sees of a decoded image: 8 bits a channel, on white, turned as the camera was held."""

import warnings

import numpy as np
from PIL import Image, ImageOps

_ORIENTATION = 0x0112
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def as_rgb(image: Image.Image) -> Image.Image:
    """The image itself if it is opaque RGB: converting would copy it. 16-bit grey is scaled, behind all is white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _DEEP:
        return _shallow(image).convert("RGB")
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def turned_upright(image: Image.Image) -> Image.Image:
    """As the file's EXIF orientation says; the image itself where it says nothing, or nothing that can be read."""
    try:
        is_turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # Pillow lets whatever a damaged EXIF block causes through; the pixels are sound
        return image
    return ImageOps.exif_transpose(image) if is_turned else image


def _shallow(image: Image.Image) -> Image.Image:
    """Pillow would cut every value above 255 to white."""
    warnings.warn("greyscale images of 16 bits are scaled to 8", stacklevel=2)
    values = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
    return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")
