"""Pictures of a job: loss curves, and a page of test images with the retrieval map of each answer. Knows no model."""

from __future__ import annotations

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


def draw_loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], *, path: Path) -> Path:
    """One axis per stage: the loss of each step, its running mean, and the learning rate as a thin line."""
    figure = Figure(figsize=(5.5 * max(1, len(curves)), 3.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for axis, (name, rows) in zip(axes, curves.items(), strict=False):
        steps = [row["step"] for row in rows]
        losses = np.asarray([row["loss"] for row in rows])
        axis.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="loss")
        axis.plot(steps, _smooth(losses), color="tab:blue", linewidth=1.6, label="loss, running mean")
        axis.set(title=name, xlabel="optimiser step", ylabel="loss per label token")
        rates = axis.twinx()
        rates.plot(steps, [row["learning_rate"] for row in rows], color="tab:orange", linewidth=0.8)
        rates.set_ylabel("learning rate", color="tab:orange")
        axis.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=120)
    return path


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window of a fiftieth of the curve, shorter at both ends."""
    half = max(1, len(values) // 100)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    left = np.maximum(np.arange(len(values)) - half, 0)
    right = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[right] - sums[left]) / (right - left)


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
