"""Pictures of training: loss, learning rate, gradient norm, throughput and memory of each stage, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from memvp_train.training.metrics_log import MetricsRow

matplotlib.use("agg")


@dataclass(frozen=True)
class Curve:
    """One line of a picture."""

    name: str
    """column of metrics.jsonl"""
    label: str
    """in the legend"""
    smoothed: bool = False
    """the values pale, their running mean strong"""


@dataclass(frozen=True)
class Chart:
    """One picture: an axis per stage."""

    name: str
    """file name"""
    caption: str
    """what a reader sees"""
    unit: str
    """label of the vertical axis"""
    curves: tuple[Curve, ...]
    """its lines; one whose column no row has is left out"""
    scale: float = 1.0
    """values are divided by it"""


CHARTS = (
    Chart(
        "loss",
        "Loss per label token at each optimiser step, and where training watches a validation set, its loss. The "
        "single point is the first batch before training, without the memory.",
        "loss per label token",
        (
            Curve("loss", "training", smoothed=True),
            Curve("validation_loss", "validation"),
            Curve("loss_without_memory", "before, without memory"),
        ),
    ),
    Chart(
        "validation_accuracy",
        "Accuracy on the validation set while training.",
        "share of right answers",
        (Curve("validation_accuracy", "validation"),),
    ),
    Chart("learning_rate", "Learning rate at each step.", "learning rate", (Curve("learning_rate", "learning rate"),)),
    Chart(
        "grad_norm",
        "Norm of the gradient before clipping.",
        "gradient norm",
        (Curve("grad_norm", "gradient norm", smoothed=True),),
    ),
    Chart(
        "throughput",
        "Tokens that all workers together read in a second of a step.",
        "tokens per second",
        (Curve("tokens_per_second", "tokens per second", smoothed=True),),
    ),
    Chart(
        "memory",
        "Memory of the first worker: its GPU's at the highest so far, or without a GPU what the process holds.",
        "memory in MiB",
        (Curve("memory_bytes", "memory"),),
        scale=float(1 << 20),
    ),
)


def draw_curves(stages: Mapping[str, Sequence[MetricsRow]], *, folder: Path) -> dict[str, Path]:
    """Draw every chart for which some stage has rows: name of the chart -> PNG in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {name: rows for name, rows in stages.items() if rows}
    charts = [chart for chart in CHARTS if any(_present(chart, rows) for rows in shown.values())]
    return {chart.name: _draw(chart, shown, path=folder / f"{chart.name}.png") for chart in charts}


def _present(chart: Chart, rows: Sequence[MetricsRow]) -> list[Curve]:
    return [curve for curve in chart.curves if any(curve.name in row for row in rows)]


def _draw(chart: Chart, stages: Mapping[str, Sequence[MetricsRow]], *, path: Path) -> Path:
    figure = Figure(figsize=(5.2 * len(stages), 3.3), layout="constrained")
    axes = figure.subplots(1, len(stages), squeeze=False)[0]
    for axis, (stage, rows) in zip(axes, stages.items(), strict=True):
        curves = _present(chart, rows)
        for number, curve in enumerate(curves):
            _plot(axis, curve, rows, scale=chart.scale, colour=f"C{number}")
        axis.set(title=stage, xlabel="optimiser step", ylabel=chart.unit)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        highest = max(row[curve.name] for curve in curves for row in rows if curve.name in row) if curves else 1.0
        axis.set_ylim(0, 1.1 * max(highest, 1e-12) / chart.scale)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1:
            axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path


def _plot(axis: Axes, curve: Curve, rows: Sequence[MetricsRow], *, scale: float, colour: str) -> None:
    found = [row for row in rows if curve.name in row]
    steps = [row["step"] for row in found]
    values = np.asarray([row[curve.name] for row in found]) / scale
    # A single point has no line to be seen by, and few points are better seen as points.
    marker = "o" if len(found) < 30 else ""
    if curve.smoothed:
        axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8, marker=marker, markersize=3)
        values = smooth(values)
        marker = ""
    axis.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=curve.label)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window of a fiftieth of the curve, shorter at both ends."""
    half = max(1, len(values) // 100)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    left = np.maximum(np.arange(len(values)) - half, 0)
    right = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[right] - sums[left]) / (right - left)
