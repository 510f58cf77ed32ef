"""Images are refused by their header or decoded whole; preprocessing equals the towers' own, pixel for pixel."""

import os
import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.image_utils import load_image as transformers_load_image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from memvp_data.images import PREPROCESSING, ImageError, image_records, load_image, preprocess, preprocessing
from memvp_data.images import decode as images
from memvp_data.images.preprocessing import CLIP_MEAN, CLIP_STD


def picture(width: int, height: int, *, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, *, kind: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises any size, with hardly any pixels behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_format_decodes_to_rgb_whatever_its_name_says(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(encoded(picture(20, 10), kind=kind))
    from_file, from_bytes = load_image(path, name="a"), load_image(path.read_bytes(), name="a")
    assert from_file.mode == "RGB"
    assert from_file.size == (20, 10)
    assert np.array_equal(np.asarray(from_file), np.asarray(from_bytes))
    assert np.array_equal(np.asarray(from_file), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    assert load_image(encoded(picture(8, 8, mode=mode)), name="a").mode == "RGB"


def test_grey_of_16_bits_is_scaled_by_its_depth() -> None:
    ramp = np.linspace(0, 65_535, 256).round().astype(np.uint16)
    with pytest.warns(UserWarning, match="greyscale images of 16 bits are scaled to 8"):
        image = load_image(encoded(Image.fromarray(np.tile(ramp, (16, 1)))), name="a")
    assert np.array_equal(np.asarray(image)[0, :, 0], np.arange(256))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    file = BytesIO()
    settings = {"transparency": (0, 0, 0)} if mode == "RGB" else {}
    image.convert(mode).save(file, "PNG", **settings)
    pixels = np.asarray(load_image(file.getvalue(), name="a"))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].max() < 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path: Path, orientation: int, kind: str) -> None:
    """As transformers' own loader does; the file keeps its bytes."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    picture(24, 16).save(path, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    seen, stored = load_image(path, name="a"), load_image(path, name="a", upright=False)
    assert np.array_equal(np.asarray(seen), np.asarray(transformers_load_image(str(path))))
    assert np.array_equal(np.asarray(stored), np.asarray(Image.open(path).convert("RGB")))
    assert (seen.size == stored.size) == (orientation < 5)
    (record,) = image_records(["a_djpg"], image_root=tmp_path)
    assert [*record[1].values()] == [path.read_bytes()]


def test_a_damaged_exif_block_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture(24, 16).save(path, "JPEG", exif=b"Exif\0\0" + b"not a tiff header")
    assert load_image(path, name="a").size == (24, 16)


def test_a_jpeg_with_previews_is_a_jpeg(tmp_path: Path) -> None:
    file = BytesIO()
    picture(16, 16).save(file, "MPO", save_all=True, append_images=[picture(8, 8)])
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    (record,) = image_records(["a_djpg"], image_root=tmp_path)
    assert list(record[1]) == ["jpg"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_of_size(30_000, 30_000), r"too large .*900000000 pixels"),
        (png_of_size(9_000, 9_000), r"9000 x 9000, more than 50,000,000 pixels"),
        (png_of_size(1, 40_000_000), r"1 x 40000000; one side may be 100 times the other"),
        (b"this is no image", "not a readable JPEG, PNG or WebP"),
        (b"", "not a readable JPEG, PNG or WebP"),
        (encoded(picture(9, 9), kind="GIF"), "not a readable JPEG, PNG or WebP"),
        (encoded(picture(9, 9), kind="TIFF"), "not a readable JPEG, PNG or WebP"),
        (png_of_size(50, 50), "damaged or truncated"),
    ],
    ids=["30,000 px", "81 megapixels", "a line", "text", "empty", "gif", "tiff", "pixels missing"],
)
def test_a_bad_image_is_named_without_decoding_it(data: bytes, message: str, recwarn: pytest.WarningsRecorder) -> None:
    started = time.process_time()
    with pytest.raises(ImageError, match=message) as caught:
        load_image(data, name="train/x.jpg")
    assert time.process_time() - started < 1  # decoding 900 megapixels takes many seconds and gigabytes
    assert "'train/x.jpg'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_cut_anywhere_is_refused(kind: str) -> None:
    data = encoded(picture(64, 64), kind=kind)
    # The last bytes of a file may be markers that no pixel needs.
    for length in range(0, int(len(data) * 0.95), len(data) // 40):
        with pytest.raises(ImageError, match=r"'x'"):
            load_image(data[:length], name="x")


def test_a_missing_or_oversized_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"no file .*none\.jpg"):
        load_image(tmp_path / "none.jpg", name="none.jpg")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ImageError, match="has 11 bytes, more than the 10 allowed"):
        load_image(bytes(11), name="big")


def test_damaged_files_never_raise_anything_but_an_image_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = np.frombuffer(encoded(picture(24, 24), kind=kind), np.uint8)
        for _ in range(100):
            broken = data.copy()
            broken[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
            try:
                load_image(broken.tobytes(), name="x")
            except ImageError:
                continue


def processors() -> dict[str, Callable[..., Any]]:
    """transformers' own, set as the towers' published `preprocessor_config.json` or their authors' code has it."""
    imagenet = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
    square = {"size": {"height": 224, "width": 224}, "do_center_crop": False}
    at_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    return {
        "clip_224": CLIPImageProcessorPil(),
        "clip_336": CLIPImageProcessorPil(**at_336),
        "clip_336_pad": LlavaImageProcessorPil(**at_336, do_pad=True),
        "clip_squash_224": CLIPImageProcessorPil(**square),
        "imagenet_squash_224": CLIPImageProcessorPil(**square, **imagenet),
        "siglip_224": SiglipImageProcessorPil(),
        "siglip_384": SiglipImageProcessorPil(size={"height": 384, "width": 384}),
        "dinov2_224": BitImageProcessorPil(size={"shortest_edge": 256}, **imagenet),
    }


@pytest.mark.parametrize("size", [(224, 224), (301, 200), (200, 301), (640, 481), (50, 90), (223, 225), (256, 257)])
@pytest.mark.parametrize("name", processors())
def test_preprocessing_equals_the_towers_processor(name: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = processors()[name](image, return_tensors="np")["pixel_values"][0]
    # Resized bytes are the same; then both work in float32, where 1 / 255 is multiplied there and divided here. One
    # step of a byte is 0.0078 or more after the division by std.
    np.testing.assert_allclose(preprocess(image, preprocessing=name), expected, atol=1e-5)


def test_every_preprocessing_but_the_toy_worlds_has_a_processor_to_equal() -> None:
    assert set(PREPROCESSING) == {*processors(), "toyworld_96"}


def test_padding_is_the_mean_colour_on_both_sides_of_the_image() -> None:
    result = preprocess(Image.new("RGB", (30, 10), "white"), preprocessing="clip_336_pad")
    grey = (np.array([122, 116, 104]) / 255 - CLIP_MEAN) / CLIP_STD  # LLaVA's int(255 * mean)
    for rows in (result[:, :90], result[:, -90:]):  # bicubic looks a few rows beyond the edge at 112
        np.testing.assert_allclose(rows, np.broadcast_to(grey[:, None, None], rows.shape), atol=1e-5)
    assert result[:, 120:216].min() > 1.9


def test_padding_a_long_image_does_not_build_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = preprocess(picture(300, 30), preprocessing="clip_336_pad")
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 200 * 200)
    created = []
    new = Image.new
    monkeypatch.setattr(Image, "new", lambda mode, size, *rest: created.append(size) or new(mode, size, *rest))
    bounded = preprocess(picture(300, 30), preprocessing="clip_336_pad")
    assert max(created) == (300, 30)  # the copy of the image itself
    assert (200, 200) in created
    # The grey border is the same but for the rows where the image begins.
    assert np.abs(whole - bounded)[:, :140].max() < 1e-6


def test_squash_uses_every_pixel_once() -> None:
    image = picture(96, 96)
    expected = (np.asarray(image).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(preprocess(image, preprocessing="toyworld_96"), expected, atol=1e-6)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_a_plain_image_stays_plain(name: str) -> None:
    settings = PREPROCESSING[name]
    colour = tuple(int(255 * value) for value in settings.mean)
    result = preprocess(Image.new("RGB", (70, 40), colour), preprocessing=name)
    expected = (np.array(colour) / 255 - settings.mean) / settings.std
    np.testing.assert_allclose(result, np.broadcast_to(expected[:, None, None], result.shape), atol=1e-5)


def test_an_unknown_preprocessing_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown preprocessing 'clip'; known: clip_224, "):
        preprocess(picture(4, 4), preprocessing="clip")


def test_image_records_keep_the_bytes_and_name_the_true_format(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").write_bytes(encoded(picture(5, 5), kind="PNG"))
    assert list(image_records(["a_sx_djpg"], image_root=tmp_path)) == [
        ("a_sx_djpg", {"png": (tmp_path / "a/x.jpg").read_bytes()})
    ]
    (tmp_path / "a/x.jpg").write_text("text")
    with pytest.raises(ImageError, match=r"'a/x\.jpg' is not a readable"):
        list(image_records(["a_sx_djpg"], image_root=tmp_path))


def test_no_folder_is_left_through_an_id(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "inside")
    (tmp_path / "secret.png").write_bytes(encoded(picture(5, 5)))
    with pytest.raises(ValueError, match="could leave its folder"):
        list(image_records(["_d_d_ssecret_dpng"], image_root=tmp_path / "inside"))
