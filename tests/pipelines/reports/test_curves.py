"""Curves become one picture per quantity that was measured, and a running mean that ends where the values do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.reports.curves import CHARTS, draw_curves, smooth

ROW = {"loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0, "tokens_per_second": 5.0, "memory_bytes": 1e8}


def rows(count: int, **extra: float) -> list[dict[str, float]]:
    return [{"step": float(step), **ROW, "loss": 2 / step, **extra} for step in range(1, count + 1)]


def drawn(path: Path) -> float:
    with Image.open(path) as picture:
        return float(np.asarray(picture.convert("L")).std())


def test_every_measured_quantity_has_its_picture(tmp_path: Path) -> None:
    found = draw_curves({"stage1": rows(60), "stage2": rows(1), "register": []}, folder=tmp_path / "figures")
    assert set(found) == {"loss", "learning_rate", "grad_norm", "throughput", "memory"}
    assert all(drawn(path) > 5 for path in found.values()), "an empty picture"


def test_validation_has_a_picture_where_it_was_watched(tmp_path: Path) -> None:
    watched = [*rows(9), *rows(1, validation_loss=1.0, validation_accuracy=0.5)]
    assert "validation_accuracy" in draw_curves({"tune": watched}, folder=tmp_path)


def test_rows_of_an_older_run_draw_what_they_have(tmp_path: Path) -> None:
    old = [{"step": 1.0, "loss": 1.0, "learning_rate": 0.1}]
    assert set(draw_curves({"stage1": old}, folder=tmp_path)) == {"loss", "learning_rate"}
    assert draw_curves({}, folder=tmp_path) == {}


def test_charts_have_names_of_their_own() -> None:
    assert len({chart.name for chart in CHARTS}) == len(CHARTS)


@pytest.mark.parametrize("count", [1, 2, 7, 250, 1001])
def test_running_mean_equals_a_loop(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    half = max(1, count // 100)
    slow = [values[max(0, place - half) : place + half + 1].mean() for place in range(count)]
    np.testing.assert_allclose(smooth(values), slow, atol=1e-12)  # sums of 1000 numbers near 1
