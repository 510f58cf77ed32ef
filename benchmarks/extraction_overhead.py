"""Storing features beside the bare tower: how much of extraction is not the tower's own work: `make bench-train`.

Both look at the same images: `extract_features` reads, decodes, checks and writes; the bare tower is given pixels. On
one thread, so that decoding does not hide behind the tower.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import interleaved, machine_line, parser, ratio, seconds, set_up, write_result
from PIL import Image
from rich.console import Console
from rich.table import Table

from memvp_data.images import load_image, preprocess
from memvp_data.shards import write_shards
from memvp_train.config import VisionConfig
from memvp_train.features.extract import extract_features, image_features
from memvp_train.models.vision import build_tower

SIDE = (640, 480)
SIZES = {"small": (384, 6), "base": (768, 12)}
"""Width and heads of ViT-S/16 and ViT-B/16, each of 12 layers, at 224 pixels."""
SMOKE = {"tiny": (48, 2)}
GOAL = 0.95


def write_images(folder: Path, *, count: int) -> list[bytes]:
    """Photographs' sizes and, roughly, their entropy: smooth noise as JPEG."""
    torch.manual_seed(0)
    found: list[bytes] = []
    for _ in range(count):
        coarse = torch.rand(1, 3, SIDE[1] // 8, SIDE[0] // 8)
        pixels = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")[0].mul(255).byte()
        buffer = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=90)
        found.append(buffer.getvalue())
    write_shards(folder, ((f"{n:05d}", {"jpg": data}) for n, data in enumerate(found)), kind="images")
    return found


def write_tower(folder: Path, *, width: int, heads: int, num_layers: int) -> VisionConfig:
    """A drawn CLIP tower of patches of 16 pixels."""
    from transformers import CLIPVisionConfig

    CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=num_layers, num_attention_heads=heads,
        image_size=224, patch_size=16,
    ).save_pretrained(folder)  # fmt: skip
    return VisionConfig(path=str(folder), random_init=True, batch_size=8)


def measure(vision: VisionConfig, *, folder: Path, count: int, num_rounds: int) -> dict[str, Any]:
    """Seconds of both for `count` images, and the share of the bare tower's throughput that extraction reaches."""
    images = write_images(folder / "images", count=count)
    tower = build_tower(vision)
    prepared = [preprocess(load_image(data, name="image"), preprocessing=vision.preprocessing) for data in images]
    pixels = torch.from_numpy(np.stack(prepared))

    def bare() -> None:
        for batch in pixels.split(vision.batch_size):
            image_features(tower, batch, vision=vision)

    def stored() -> None:
        shutil.rmtree(folder / "features", ignore_errors=True)
        extract_features(folder / "images", folder / "features", vision)

    times = interleaved({"bare tower": bare, "extraction": stored}, num_rounds=num_rounds)
    return {
        "images": count,
        "seconds_per_image": {name: seconds(times, name) / count for name in times},
        "throughput_ratio": ratio(times, "bare tower", to="extraction"),
        "seconds": times,
    }


def results(folder: Path, *, is_smoke: bool, num_rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One result for each tower."""
    for name, (width, heads) in (SMOKE if is_smoke else SIZES).items():
        place = folder / name
        vision = write_tower(place / "tower", width=width, heads=heads, num_layers=2 if is_smoke else 12)
        yield name, measure(vision, folder=place, count=4 if is_smoke else 16, num_rounds=num_rounds)


def main() -> None:
    args = parser(__doc__).parse_args()
    args.threads = args.threads or 1
    facts, console = set_up(args), Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        found = dict(results(Path(folder), is_smoke=args.smoke, num_rounds=1 if args.smoke else args.rounds or 5))
    table = Table(title=f"Feature extraction beside the bare tower (goal {GOAL})", caption=machine_line(facts))
    for column in ("tower", "bare tower, ms per image", "extraction, ms per image", "throughput"):
        table.add_column(column, justify="right")
    for name, one in found.items():
        per_image = one["seconds_per_image"]
        table.add_row(name, *(f"{1000 * per_image[kind]:.1f}" for kind in per_image), f"{one['throughput_ratio']:.3f}")
    console.print(table)
    console.print(f"numbers: {write_result(args.out, 'extraction_overhead', found, facts=facts).name}")


if __name__ == "__main__":
    main()
