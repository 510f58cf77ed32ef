"""What reading costs beside the plainest way to read the same: `make bench-data`.

Features in order against Python's tarfile and webdataset; features at random against one torch.save file per image;
images decoded and preprocessed against Pillow alone. Everything lies in the page cache, and seconds are those of the
processor: what other programs do on the machine counts as little as it can. What a second core saves in the first epoch
shows on the wall alone, so reading in order is timed on it too.
"""

from __future__ import annotations

import io
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from measuring import interleaved, machine_line, parser, ratio, seconds, set_up, write_result
from PIL import Image
from rich.console import Console
from rich.table import Table

from memvp_data.features import FeatureStore, feature_record
from memvp_data.features import store as features_module
from memvp_data.images import load_image, preprocess
from memvp_data.shards import write_shards
from memvp_data.shards.reader import ShardReader

SHAPES = {"512 KiB (256 x 1024 fp16)": ((256, 1024), 384), "72 KiB (36 x 1024 fp16)": ((36, 1024), 1536)}
SMOKE = {"smoke": ((4, 32), 8)}
BATCH = 32
Calls = dict[str, Callable[[], Any]]


def summary(times: dict[str, list[float]], *, work: float, baselines: tuple[str, ...]) -> dict[str, Any]:
    """Rates (work per second), and how many times as fast as each baseline: medians, ratios inside a round."""
    return {
        name: {"rate": work / seconds(times, name)}
        | {f"x {other}": 1 / ratio(times, name, to=other) for other in baselines}
        for name in times
    }


def write_features(folder: Path, *, shape: tuple[int, int], count: int) -> list[str]:
    """The same features as shards in `shards` and as one file each in `files`; their names."""
    generator, names = torch.Generator().manual_seed(0), [f"image{number:06d}" for number in range(count)]
    made = {name: torch.randn(shape, generator=generator).half() for name in names}
    records = ((name, {"safetensors": feature_record(value)}) for name, value in made.items())
    write_shards(folder / "shards", records, kind="features", max_shard_bytes=64 << 20)
    (folder / "files").mkdir()
    for name, value in made.items():
        torch.save(value, folder / "files" / f"{name}.pt")
    return names


def plain_tar(paths: list[str]) -> int:
    """Bytes of all members, read one after the other as tarfile streams them."""
    return sum(len(data) for path in paths for data in _tar_members(path))


def _tar_members(path: str) -> Iterator[bytes]:
    with tarfile.open(path, "r|") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            yield file.read()


def forgetting(reader: ShardReader) -> ShardReader:
    """The reader as if it had just been opened: nothing is known to be sound, as in a first epoch."""
    reader.sound._states.clear()
    return reader


def in_order(folder: Path, *, num_rounds: int, wall: bool = False) -> dict[str, Any]:
    """GB per second of all features of a folder, in order: of the processor, or on the wall, where two cores count."""
    reader, later, store = ShardReader(folder), ShardReader(folder, verify="full"), FeatureStore(folder)
    first_store = FeatureStore(folder)
    paths = [str(folder / entry.name) for entry in reader.manifest.shards]
    calls: Calls = {
        "plain tar": lambda: plain_tar(paths),
        "webdataset": lambda: sum(len(s["safetensors"]) for s in webdataset.WebDataset(paths, shardshuffle=False)),
        "members, first epoch": lambda: sum(len(m["safetensors"]) for _, m in forgetting(reader).stream()),
        "members, later epochs": lambda: sum(len(m["safetensors"]) for _, m in later.stream()),
        "checked tensors, first epoch": lambda: _first_tensors(first_store),
        "checked tensors, later epochs": lambda: sum(value.numel() for _, value in store.stream()),
    }
    gigabytes = plain_tar(paths) / 1e9
    times = interleaved(calls, num_rounds=num_rounds, wall=wall)
    return summary(times, work=gigabytes, baselines=("plain tar", "webdataset"))


def _first_tensors(store: FeatureStore) -> int:
    forgetting(store._reader)
    store._finite[:] = False
    return sum(value.numel() for _, value in store.stream())


def at_random(folder: Path, *, names: list[str], num_rounds: int) -> dict[str, Any]:
    """Images per second, in batches of float16 tensors."""
    later, first = FeatureStore(folder / "shards"), FeatureStore(folder / "shards")
    rng = random.Random(0)
    order = rng.sample(names, k=min(len(names), 256))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def first_epoch() -> None:
        forgetting(first._reader)
        first._finite[:] = False
        for batch in batches:
            first.load(batch, dtype=torch.float16)

    calls: Calls = {
        "torch.load": lambda: [
            torch.stack([torch.load(folder / "files" / f"{name}.pt") for name in batch]) for batch in batches
        ],
        "later epochs": lambda: [later.load(batch, dtype=torch.float16) for batch in batches],
        "first epoch": first_epoch,
    }
    times = interleaved(calls, num_rounds=num_rounds)
    return summary(times, work=len(order), baselines=("torch.load",))


def photo(number: int) -> bytes:
    """A JPEG of 640 x 480 with the size and detail of a photograph."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:480, 0:640]
    waves = np.stack([127 + 90 * np.sin(x / (20 + 9 * c + number)) * np.cos(y / 35) for c in range(3)], axis=-1)
    file = io.BytesIO()
    noisy = (waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def pillow_alone(data: bytes) -> np.ndarray:
    """Decode, resize and crop as clip_336 does, to bytes: nothing is checked, nothing normalised."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((448, 336), Image.Resampling.BICUBIC).crop((56, 0, 392, 336)))


def decoding(*, num_images: int, num_rounds: int) -> dict[str, Any]:
    """Images per second and core, from the bytes of a JPEG to the normalised input of CLIP ViT-L/14@336."""
    photos = [photo(number) for number in range(num_images)]
    calls: Calls = {
        "Pillow alone": lambda: [pillow_alone(data) for data in photos],
        "load_image + preprocess": lambda: [
            preprocess(load_image(data, name="x"), preprocessing="clip_336") for data in photos
        ],
    }
    times = interleaved(calls, num_rounds=num_rounds)
    return summary(times, work=num_images, baselines=("Pillow alone",))


def table_of(title: str, found: dict[str, Any], *, unit: str) -> Table:
    """One measurement."""
    table = Table(title=title)
    for column in ("way", unit, *[name for name in next(iter(found.values())) if name != "rate"]):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, numbers in found.items():
        table.add_row(name, *[f"{value:,.2f}" for value in numbers.values()])
    return table


def main() -> None:
    """Measure, show and write the result file."""
    options = parser(__doc__).parse_args()
    options.threads, options.processor_time = options.threads or 1, True
    facts, console, found = set_up(options), Console(), {}
    num_rounds = options.rounds or (1 if options.smoke else 9)
    for label, (shape, count) in (SMOKE if options.smoke else SHAPES).items():
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            names = write_features(Path(folder), shape=shape, count=count)
            features_module._CACHED_BYTES = 0  # from disk, as a folder too large for memory
            ordered = in_order(Path(folder) / "shards", num_rounds=num_rounds)
            on_wall = in_order(Path(folder) / "shards", num_rounds=num_rounds, wall=True)
            chosen = at_random(Path(folder), names=names, num_rounds=num_rounds)
        found[label] = {"in_order": ordered, "in_order_on_the_wall": on_wall, "at_random": chosen}
        console.print(table_of(f"Features of {label} in order", ordered, unit="GB/s"))
        console.print(table_of(f"Features of {label} in order, seconds on the wall", on_wall, unit="GB/s"))
        console.print(table_of(f"Features of {label} at random, batches of {BATCH}", chosen, unit="images/s"))
    found["decoding"] = decoding(num_images=2 if options.smoke else 24, num_rounds=num_rounds)
    console.print(table_of("JPEG 640 x 480 to CLIP's input", found["decoding"], unit="images/s"))
    console.print(
        machine_line(facts), f"result: {write_result(options.out, 'data_reading', found, facts=facts)}", sep="\n"
    )


if __name__ == "__main__":
    main()
