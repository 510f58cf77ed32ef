"""What a recipe may not say: RecipeError, and the checks that every kind of job shares."""

import re
from collections.abc import Sequence
from typing import Any

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RecipeError(ValueError):
    """A setting is unknown, has the wrong type, or does not go with another one."""


def check_name(name: str) -> None:
    """Refuse a run name that could not name a folder."""
    if not _RUN_NAME.fullmatch(name):
        raise RecipeError(f"name must be 1 to 64 letters, digits, '-' or '_', as it names a folder; got {name!r}")


def check_positive(group: str, part: Any, *, names: Sequence[str]) -> None:
    """Refuse counts below 1 in a group of settings."""
    for name in names:
        if getattr(part, name) < 1:
            raise RecipeError(f"{group}.{name} must be at least 1, got {getattr(part, name)}")


def check_files(root: str | None, toyworld: Any) -> None:
    """Official files are in a folder or drawn, not both."""
    if (root is None) == (toyworld is None):
        raise RecipeError(
            "set one of data.root (folder of official files) and data.toyworld (draw them), the other null"
        )
