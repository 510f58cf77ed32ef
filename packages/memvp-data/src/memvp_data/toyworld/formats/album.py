"""The folder that a format is written to: pictures of fresh scenes, JSON beside them, and what each picture shows.

`scenes.jsonl` belongs to no official format: {"image", "caption"} of every picture, so that anyone can check an answer.
"""

import io
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from memvp_data.toyworld.draw import draw_scene
from memvp_data.toyworld.language import caption
from memvp_data.toyworld.scenes import Scene
from memvp_data.toyworld.write import Scenes

SCENES_FILE = "scenes.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True)
class FormatConfig:
    """How much to draw. The same config always writes the same bytes."""

    num_images: int = 64
    """Images (video: clips) of a split to train on."""
    seed: int = 0
    """Everything is drawn from it and the name of the format."""

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"a toy world needs at least 1 image, got {self.num_images}")
        if self.seed < 0:
            raise ValueError(f"the seed of a toy world must be 0 or more, got {self.seed}")

    @property
    def num_test_images(self) -> int:
        """Images of every other split (MME: of every task): a quarter as many, at least the 3 that CIDEr needs."""
        return max(3, self.num_images // 4)


class Album:
    """Draws scenes that never repeat, and writes below one folder."""

    def __init__(self, root: Path, config: FormatConfig, *, name: str) -> None:
        self.root, self.config = root, config
        self.rng = Random(f"{name} {config.seed}")
        self._seed = [config.seed, zlib.crc32(name.encode())]
        self._scenes = Scenes(self.rng.getrandbits(63))
        self._shown: list[Record] = []

    def scene(self) -> Scene:
        """A new scene without any held-out pair, as training and test scenes of the toy world are."""
        return self._scenes.draw(1, pairs="seen")[0]

    def picture(self, name: str) -> Scene:
        """Draw a new scene into the file of that name and return it."""
        scene = self.scene()
        self.write(name, self.pixels(name, scene))
        return scene

    def pixels(self, name: str, scene: Scene) -> bytes:
        """The picture as the bytes of a JPEG or, if the name says so, a PNG; noted as what `name` shows."""
        self._shown.append({"image": name, "caption": caption(scene)})
        file, noise = io.BytesIO(), np.random.default_rng([*self._seed, zlib.crc32(name.encode())])
        image = draw_scene(scene, noise)
        if name.endswith(".png"):
            image.save(file, "PNG")
        else:
            image.save(file, "JPEG", quality=95, subsampling=0)
        return file.getvalue()

    def write(self, name: str, content: bytes) -> None:
        """Write a file as it stands."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def json(self, name: str, value: Any) -> None:
        """Write one JSON value."""
        self.write(name, json.dumps(value).encode())

    def lines(self, name: str, records: Iterable[Record]) -> None:
        """Write JSON Lines."""
        self.write(name, "".join(json.dumps(record) + "\n" for record in records).encode())

    def finish(self) -> None:
        """Write what every picture shows."""
        self.lines(SCENES_FILE, self._shown)
