"""Find models by folder or hub name and load what transformers knows of them, with an error in one sentence.

Nothing is ever run from a model repository (no remote code), and weights are read from safetensors only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

TOYWORLD = "toyworld/"


class ModelError(ValueError):
    """A model cannot be found or built, or does not fit the features."""


def resolve_path(path: str) -> str:
    """A folder or hub name; `toyworld/...` becomes the shipped folder, an existing folder an absolute path."""
    if path.startswith(TOYWORLD):
        from memvp_data.toyworld import model_path

        return str(model_path(path.removeprefix(TOYWORLD)))  # type: ignore[arg-type]
    return str(Path(path).resolve()) if Path(path).exists() else path


def raw_config(path: str, *, what: str) -> dict[str, Any]:
    """The model's config.json as it is."""
    from transformers import PreTrainedConfig

    try:
        return PreTrainedConfig.get_config_dict(resolve_path(path))[0]
    except (OSError, ValueError) as error:
        raise ModelError(not_found(what, path, error=error)) from error


def model_config(path: str, *, what: str) -> Any:
    """Its config as transformers reads it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(resolve_path(path))
    except (OSError, ValueError) as error:
        raise ModelError(not_found(what, path, error=error)) from error


def overridden(config: Any, overrides: Mapping[str, Any] | None, *, path: str) -> Any:
    """The config with these fields changed, in place; fields that it does not have are refused."""
    for name, value in (overrides or {}).items():
        if not hasattr(config, name):
            raise ModelError(f"overrides: the config of {path} has no field {name!r}")
        setattr(config, name, value)
    return config


def pretrained(cls: Any, path: str, *, settings: Any, dtype: torch.dtype, what: str, **options: Any) -> Any:
    """`cls.from_pretrained` in evaluation mode."""
    from transformers.utils import logging

    # transformers draws a bar even for the two megabytes of the toy world, in the middle of the caller's own.
    logging.disable_progress_bar()
    try:
        folder = resolve_path(path)
        return cls.from_pretrained(folder, config=settings, dtype=dtype, use_safetensors=True, **options).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(not_found(what, path, error=error)) from error


def not_found(what: str, path: str, *, error: Exception) -> str:
    """The sentence for a model that cannot be loaded."""
    reason = (str(error).splitlines() or [""])[0]
    return f"{what} {path!r} cannot be loaded ({reason}); give a folder with its files or a name the hub knows"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed without moving the generator outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
