"""Thousands of mutated images, tars, indexes and feature records: sound results or clean errors, in bounds."""

import io
import random
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memvp_data.features import feature_record, parse_features
from memvp_data.images import ImageError, load_image
from memvp_data.shards import Manifest, ShardError, write_shards
from memvp_data.shards.foreign import index_tars
from memvp_data.shards.reader import ShardReader
from memvp_data.shards.tar import walk

MAX_GROWTH = 400 << 10  # kilobytes; an image may take 150 MB of pixels before it turns out to be cut
INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Neither memory nor processor time may run away."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH
    assert time.process_time() - started < 30


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes set, parts cut out, doubled, moved or zeroed, one to four times."""
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(len(data) + 1), rng.choice([1, 2, 4, 8, 64, 512])
        before, part, after = data[:place], data[place : place + length], data[place + length :]
        data = rng.choice(
            [
                lambda b=before, p=part, a=after: (
                    b + bytes(byte ^ (1 << rng.randrange(8)) for byte in p[:1]) + p[1:] + a
                ),
                lambda b=before, p=part, a=after: b + bytes(rng.choice(INTERESTING) for _ in p) + a,
                lambda b=before, p=part, a=after: b + bytes(len(p)) + a,
                lambda b=before, p=part, a=after: b + p + p + a,
                lambda b=before, a=after: b + a,
                lambda b=before: b,
            ]
        )()
    return data


def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    found = []
    for kind, settings in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **settings)
        found.append(file.getvalue())
    return found


def outcomes(candidates: Iterator[bytes], use: Callable[[bytes], object], *, clean: type[Exception]) -> tuple[int, int]:
    """How many were used and how many refused; anything but the clean error goes through."""
    used, errors = 0, []
    for data in candidates:
        try:
            use(data)
            used += 1
        except clean as error:
            errors.append(str(error))
    assert not [line for line in errors if "\n" in line]
    return used, len(errors)


@pytest.mark.faults
def test_two_thousand_images() -> None:
    rng, originals = random.Random(0), pictures()
    candidates = (mutated(originals[number % len(originals)], rng) for number in range(2000))
    used, refused = outcomes(candidates, lambda data: load_image(data, name="x"), clean=ImageError)
    assert min(used, refused) > 100  # neither everything nor nothing got through: the mutations are of the right size


@pytest.mark.faults
def test_two_thousand_tars() -> None:
    rng, file = random.Random(1), io.BytesIO()
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
            for number in range(3):
                info = tarfile.TarInfo(f"{'long-' * 30}{number}.txt")
                info.size = 300
                tar.addfile(info, io.BytesIO(bytes([number]) * 300))
    original = file.getvalue()

    def walk_all(data: bytes) -> None:
        for member in walk(io.BytesIO(data), num_bytes=len(data), where="x.tar"):
            assert 0 <= member.offset <= member.offset + member.size <= len(data)

    used, refused = outcomes((mutated(original, rng) for _ in range(2000)), walk_all, clean=ShardError)
    assert min(used, refused) > 20


@pytest.mark.faults
def test_two_thousand_feature_records() -> None:
    rng, original = random.Random(2), feature_record(torch.arange(24.0).reshape(4, 6).half())

    def parse(data: bytes) -> None:
        assert torch.isfinite(parse_features(data)).all()

    used, refused = outcomes((mutated(original, rng) for _ in range(2000)), parse, clean=ValueError)
    assert min(used, refused) > 20


@pytest.mark.faults
def test_foreign_folders(tmp_path: Path) -> None:
    """From a mutated tar to its samples: what is indexed can be read, and reads as it was when it was indexed."""
    rng, file = random.Random(3), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in (("a.jpg", 700), ("a.txt", 5), ("b.jpg", 10)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([size % 256]) * size))

    def index_and_read(data: bytes) -> None:
        (tmp_path / "0.tar").write_bytes(data)
        index_tars(tmp_path)
        assert len(list(ShardReader(tmp_path).stream())) == Manifest.load(tmp_path).num_samples

    candidates = (mutated(file.getvalue(), rng) for _ in range(150))
    used, refused = outcomes(candidates, index_and_read, clean=ShardError)
    assert min(used, refused) > 5


@pytest.mark.faults
@pytest.mark.parametrize("name", ["manifest.json", "index.parquet", "images-00000.tar"])
def test_two_hundred_shard_folders(tmp_path: Path, name: str) -> None:
    records = [(f"k{number}", {"jpg": bytes([number]) * 700}) for number in range(3)]
    write_shards(tmp_path, records, kind="images")
    rng, original = random.Random(4), (tmp_path / name).read_bytes()

    def read_all(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        reader = ShardReader(tmp_path, verify="full")
        assert [(key, reader.read(key)) for key in reader] == records
        assert data == original or name == "manifest.json"  # JSON may change outside its values

    _, refused = outcomes((mutated(original, rng) for _ in range(200)), read_all, clean=ShardError)
    assert refused > 190
