"""Warnings of ours as one line beside the bar; those of libraries stay as Python prints them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.console.errors import OUR_PACKAGES
from pipelines.console.redaction import redacted

_INSTALLED = "site-packages"


@contextmanager
def warning_lines(console: Console) -> Iterator[None]:
    """Print our warnings to `console` while the block runs, in every thread."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if category is UserWarning and _is_ours(filename):
            console.print(f"warning: {redacted(str(message))}", soft_wrap=True, markup=False, highlight=False)
        else:
            before(message, category, filename, lineno, *rest)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _is_ours(filename: str) -> bool:
    """By the package it was raised in; transformers has folders called pipelines too."""
    parts = Path(filename).parts
    if _INSTALLED in parts:
        return parts[parts.index(_INSTALLED) + 1] in OUR_PACKAGES
    return not set(OUR_PACKAGES).isdisjoint(parts)
