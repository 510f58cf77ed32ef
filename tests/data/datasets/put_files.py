"""Small files and images for tests, and one value of a JSON file changed."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def put_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def put_lines(path: Path, records: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def image_bytes(suffix: str = ".jpg") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(file, "PNG" if suffix == ".png" else "JPEG")
    return file.getvalue()


def put_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_bytes(Path(name).suffix))


def put_frames(path: Path, num_frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = np.random.default_rng(num_frames).standard_normal((num_frames, 512)).astype(np.float16)
    np.savez(path, features=features)


GONE = object()
"""As a new value: take the field away."""


def change_json(path: Path, *, at: tuple[Any, ...], to: Any) -> None:
    """Change one value of a JSON file; JSON Lines when its suffix is .jsonl or when it does not parse as one value."""
    content = path.read_text(encoding="utf-8")
    try:
        value, is_lines = json.loads(content), False
    except ValueError:
        value, is_lines = [json.loads(line) for line in content.splitlines()], True
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if to is GONE:
        del inner[at[-1]]
    else:
        inner[at[-1]] = to
    put_lines(path, value) if is_lines else put_json(path, value)
