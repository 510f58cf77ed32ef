"""Images made to harm: bombs of pixels, bytes, frames and text, formats in disguise. A sentence refuses each."""

import io
import resource
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memvp_data.images import ImageError, image_records, load_image
from memvp_data.images import decode as images


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP whose extended header promises a canvas, with a tiny picture behind it."""
    picture = encoded(Image.new("RGB", (2, 2)), "WEBP", lossless=True)[12:]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", width - 1)[:3]
    body = b"WEBP" + extended + struct.pack("<I", height - 1)[:3] + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animation(kind: str, *, num_frames: int) -> bytes:
    frames = [Image.new("RGB", (4, 4), (0, 255 * (number % 2), 0)) for number in range(num_frames)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def one_bit_png(side: int) -> bytes:
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return png(side, side, chunk(b"IDAT", rows), bits=1, colour=0)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pixels, PNG": (lambda: png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(99)))), "too large"),
    "pixels, WebP canvas": (
        lambda: webp_canvas(16_383, 16_383),
        "too large|more than 50,000,000 pixels|not a readable",
    ),
    "ratio, one bit per pixel": (lambda: one_bit_png(6_400), r"unpacks [\d,]+ bytes to 40,960,000 pixels"),
    "ratio, plain WebP": (lambda: encoded(Image.new("RGB", (3_000, 3_000)), "WEBP", lossless=True), "unpacks"),
    "frames, WebP": (lambda: animation("WEBP", num_frames=120), "has 120 frames, more than 100"),
    "frames, APNG": (lambda: animation("PNG", num_frames=120), "has 120 frames, more than 100"),
    "text": (
        lambda: png(
            2,
            2,
            chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))),
            chunk(b"IDAT", zlib.compress(bytes(14))),
        ),
        "not a readable|damaged",
    ),
    "colour profile": (
        lambda: png(
            2,
            2,
            chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 << 20))),
            chunk(b"IDAT", zlib.compress(bytes(14))),
        ),
        "not a readable|damaged",
    ),
    "a line": (lambda: png(1, 49_000_000, chunk(b"IDAT", b"")), "one side may be 100 times the other"),
    "no pixels": (lambda: png(0, 7, chunk(b"IDAT", b"")), "not a readable|damaged|one side"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_unpacked(name: str) -> None:
    make, message = BOMBS[name]
    data = make()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageError, match=message) as caught:
        load_image(data, name="train/bomb")
    assert "'train/bomb'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10  # kilobytes


def test_too_many_bytes_are_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="more than the 67,108,864 allowed"):
        load_image(tmp_path / "big.png", name="big.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_a_short_animation_gives_its_first_frame(kind: str) -> None:
    assert load_image(animation(kind, num_frames=3), name="a").getpixel((0, 0)) == (0, 0, 0)


def test_plain_pictures_of_a_usual_size_are_no_bombs() -> None:
    for kind, settings in (("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {})):
        assert load_image(encoded(Image.new("RGB", (2_000, 1_999)), kind, **settings), name="a").size == (2_000, 1_999)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "PDF", "EPS", "PCX", "SGI", "DDS", "ICNS"])
def test_other_formats_are_refused_under_any_name(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    (tmp_path / "x.jpg").write_bytes(encoded(image, kind))
    with pytest.raises(ImageError, match="not a readable JPEG, PNG or WebP"):
        list(image_records(["x_djpg"], image_root=tmp_path))


@pytest.mark.parametrize(
    "data",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run",
        b"#!/bin/sh\ntouch canary\n",
        b"SIMPLE  =                    T",
        b"PK\x03\x04" + bytes(64),
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff",
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="'x'"):
        load_image(data, name="x")


def test_threads_leave_the_filters_of_warnings_alone(recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    before = list(warnings.filters)
    huge, small = png(9_400, 9_600, chunk(b"IDAT", b"")), encoded(Image.new("RGB", (8, 8)), "PNG")

    def load(number: int) -> bool:
        try:
            return load_image((huge, small)[number % 2], name="x").size == (8, 8)
        except ImageError:
            return number % 2 == 0

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(load, range(200)))
    assert warnings.filters == before
    assert not recwarn.list
