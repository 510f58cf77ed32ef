"""A picture of test images, each with the retrieval map of its answer. Knows no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

matplotlib.use("agg")

_COLUMNS = 3


@dataclass(frozen=True)
class Panel:
    """One test image on the page."""

    pixels: NDArray[np.float32]
    """(S, S, 3) in [0, 1]: the image as the tower saw it"""
    heat: NDArray[np.float32]
    """(rows, columns): how strongly each patch was retrieved for the answer"""
    question: str
    """what was asked"""
    answers: Mapping[str, str]
    """who -> answer, in order"""


def draw_retrieval_page(panels: Sequence[Panel], *, path: Path) -> Path:
    """Each panel twice: the image, and the same under its retrieval map; question and answers below."""
    num_rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(5.2 * _COLUMNS, 3.9 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, 2 * _COLUMNS, squeeze=False)
    for axis in grid.flat:
        axis.axis("off")
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        _draw_panel(grid[row][2 * column], grid[row][2 * column + 1], panel=panel)
    figure.savefig(path, dpi=110)
    return path


def _draw_panel(left, right, *, panel: Panel) -> None:  # type: ignore[no-untyped-def]
    left.imshow(panel.pixels, interpolation="nearest")
    left.set_title(_wrap(panel.question), fontsize=9, loc="left")
    right.imshow(panel.pixels, interpolation="nearest", alpha=0.55)
    size = panel.pixels.shape[0]
    # The map is coarse (one value per patch): show the patches as they are, an interpolated map would claim more.
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    right.imshow(panel.heat, cmap="inferno", alpha=0.6, extent=extent, interpolation="nearest")
    lines = "\n".join(f"{who}: {answer}" for who, answer in panel.answers.items())
    right.set_title(lines, fontsize=8, loc="left", family="monospace")


def _wrap(text: str, *, width: int = 34, lines: int = 4) -> str:
    words, rows = text.split(), [""]
    for word in words:
        if len(rows[-1]) + len(word) > width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    return "\n".join(rows[:lines])
