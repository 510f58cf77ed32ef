"""Pictures of looking and editing: a retrieval map over its image, a deletion curve. Needs the extra `viz`.

Functions give a matplotlib Figure and, with a `path`, write it there; no window is opened and no global state touched.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from memvp_core.locate.faithfulness import DeletionCurve

_DPI = 150


def draw_retrieval_map(
    image: Any,
    scores: Float[Tensor, "rows columns"],
    *,
    title: str = "",
    outlined: Sequence[int] = (),
    path: str | Path | None = None,
) -> "Figure":
    """The image, and the image under its map; `outlined` rows get a frame.

    `image` is what the tower saw, (height, width, 3) with values in [0, 1] or bytes, or a PIL image: patches are laid
    over it evenly. `scores` is a map on its grid (`locate.on_grid`). The patches stay visible as such, since an
    interpolated map would claim more than is known.
    """
    if scores.ndim != 2:
        raise ValueError(
            f"scores must be one map on its grid, (rows, columns); got the shape {tuple(scores.shape)}: average over "
            "layers and tokens and use memvp_core.locate.on_grid."
        )
    figure = _new_figure(width=8.4, height=4.0)
    left, right = figure.subplots(1, 2)
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    plain = left.imshow(pixels, interpolation="nearest")
    extent = tuple(plain.get_extent())
    _show_grey(right, plain)
    values = scores.detach().float().cpu()
    heat = right.imshow(
        values.numpy(), cmap="inferno", alpha=_opacity(values).numpy(), extent=extent, interpolation="nearest"
    )
    _add_bar(right, heat)
    _outline(right, outlined, grid=(scores.shape[0], scores.shape[1]), extent=extent)
    for axis, words in ((left, "image"), (right, "rows retrieved")):
        axis.set(xticks=[], yticks=[])
        axis.set_title(words, fontsize=9)
    figure.suptitle(title, fontsize=10, wrap=True)
    # Panels are 3.6 inches wide; above them stand two lines, or more where the title is long.
    figure.set_figheight(3.6 * (extent[2] - extent[3]) / (extent[1] - extent[0]) + 0.5 + 0.2 * (len(title) // 100))
    return _written(figure, path)


def draw_deletion_curve(
    curve: "DeletionCurve", *, score_name: str = "accuracy", title: str = "", path: str | Path | None = None
) -> "Figure":
    """Score against the share of removed rows: strongest first, random (mean, and each order), weakest first."""
    figure = _new_figure(width=5.6, height=3.8)
    axis = figure.subplots()
    percent = [100 * share for share in curve.shares]
    for order in curve.random_orders:
        axis.plot(percent, order, color="0.6", linewidth=0.7, alpha=0.6)
    lines = {"weakest first": (curve.weakest, "tab:blue"), "random": (curve.random, "0.4"),
             "strongest first": (curve.strongest, "tab:red")}  # fmt: skip
    for name, (scores, color) in lines.items():
        axis.plot(percent, scores, color=color, marker="o", markersize=3.5, label=name)
    axis.set_xlabel("rows removed from each image, %")
    axis.set_ylabel(score_name)
    axis.set_title(title or f"faithfulness {curve.faithfulness:.3f}", fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    # Above the axes: the curves may run anywhere inside.
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return _written(figure, path)


def _new_figure(*, width: float, height: float) -> Any:
    """Apart from pyplot, which would keep it open and choose a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _show_grey(axis: Any, plain: Any) -> None:
    """The same image without its colours, which would mix with those of the map."""
    pixels = plain.get_array()
    grey = pixels[..., :3].mean(axis=-1) if pixels.ndim == 3 else pixels
    brightest = 255 if pixels.dtype.kind == "u" else 1
    axis.imshow(grey, cmap="gray", vmin=0, vmax=brightest, interpolation="nearest")


def _opacity(values: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Faint where little was retrieved, so that the image stays to be seen there."""
    low, high = values.min(), values.max()
    return 0.2 + 0.6 * (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def _add_bar(axis: Any, heat: Any) -> None:
    """Without the opacities, which a bar cannot show patch by patch."""
    from matplotlib.cm import ScalarMappable

    opaque = ScalarMappable(norm=heat.norm, cmap=heat.cmap)
    axis.figure.colorbar(opaque, ax=axis, fraction=0.05, pad=0.02, label="activation")


def _outline(axis: Any, rows: Sequence[int], *, grid: tuple[int, int], extent: tuple[float, ...]) -> None:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent
    width, height = (right - left) / grid[1], (bottom - top) / grid[0]
    for number in rows:
        row, column = divmod(number, grid[1])
        corner = (left + column * width, top + row * height)
        axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=1.6))


def _written(figure: Any, path: str | Path | None) -> "Figure":
    if path is not None:
        figure.savefig(path, dpi=_DPI)
    return figure
