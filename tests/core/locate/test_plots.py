"""What the pictures hold; how they look is for eyes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from memvp_core.locate.faithfulness import DeletionCurve
from memvp_core.locate.plots import draw_deletion_curve, draw_retrieval_map

SCORES = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 5.0]])
CURVE = DeletionCurve((0.0, 0.5, 1.0), (1.0, 0.2, 0.1), (1.0, 0.9, 0.1), ((1.0, 0.5, 0.1), (1.0, 0.7, 0.1)))


def make_image(kind: str) -> Any:
    """60 x 40 pixels, white below."""
    pixels = np.zeros((40, 60, 3))
    pixels[20:] = 1.0
    if kind == "bytes":
        return (255 * pixels).astype(np.uint8)
    if kind == "grey":
        return pixels[..., 0]
    if kind == "tensor":
        return torch.from_numpy(pixels)
    return Image.fromarray((255 * pixels).astype(np.uint8))


@pytest.mark.parametrize("kind", ["bytes", "tensor", "grey", "pil"])
def test_map_covers_its_image_patch_by_patch(kind: str, tmp_path: Path) -> None:
    figure = draw_retrieval_map(make_image(kind), SCORES, title="what is it ?", outlined=[5], path=tmp_path / "map.png")
    left, right, _bar = figure.axes
    grey, heat = right.images
    assert left.images[0].get_extent() == grey.get_extent() == heat.get_extent() == [-0.5, 59.5, 39.5, -0.5]
    np.testing.assert_array_equal(heat.get_array(), SCORES.numpy())
    assert (float(grey.norm(grey.get_array()[0, 0])), float(grey.norm(grey.get_array()[-1, -1]))) == (0.0, 1.0)
    # Opacity rises with the map.
    assert np.argmax(heat.get_alpha()) == 5
    (frame,) = right.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((39.5, 19.5), 20, 20)
    assert figure.get_suptitle() == "what is it ?"
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


def test_map_of_equal_scores_is_drawn() -> None:
    figure = draw_retrieval_map(make_image("bytes"), torch.zeros(2, 3))
    figure.canvas.draw()
    assert np.isfinite(figure.axes[1].images[1].get_alpha()).all()


def test_map_that_is_on_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one map on its grid, \(rows, columns\); got the shape \(6,\)"):
        draw_retrieval_map(make_image("bytes"), SCORES.flatten())


def test_curve_shows_the_three_orders_and_every_random_one(tmp_path: Path) -> None:
    figure = draw_deletion_curve(CURVE, score_name="likeness", path=tmp_path / "curve.png")
    (axis,) = figure.axes
    lines = {line.get_label(): tuple(line.get_ydata()) for line in axis.lines}
    assert lines["strongest first"] == CURVE.strongest
    assert lines["weakest first"] == CURVE.weakest
    assert lines["random"] == CURVE.random
    assert len(axis.lines) == 3 + 2
    assert tuple(axis.lines[0].get_xdata()) == (0.0, 50.0, 100.0)
    assert axis.get_ylabel() == "likeness"
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
