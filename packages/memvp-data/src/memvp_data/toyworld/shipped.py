"""Where the toy world's two small foundation models lie: shipped as safetensors, made by `pipelines/pretraining/`."""

from __future__ import annotations

from pathlib import Path

NAMES = ("language", "vision")


def model_path(name: str) -> Path:
    """Folder of the shipped model ``name`` ("language" or "vision"), loadable by transformers' `from_pretrained`."""
    if name not in NAMES:
        raise ValueError(f"the toy world has the models {' and '.join(NAMES)}, not {name!r}")
    return Path(__file__).parent / "models" / name
