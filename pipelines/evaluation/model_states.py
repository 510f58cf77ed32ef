"""The lines of the results table: which model state is shown which image, and which questions it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One line of the results table."""

    name: str
    """key in report.json"""
    title: str
    """first column"""
    adapter: Literal["stage1", "stage2"]
    """adapter that is loaded"""
    image: Literal["own", "none", "other"]
    """which image the model is shown"""
    with_adapter: bool = True
    """False: the adapter is switched off, the base model answers"""
    headline: str = "image"
    """slice of the headline accuracy"""


ROWS = (
    Row("base", "base language model, no image", "stage1", "none", with_adapter=False),
    Row(
        "text_ceiling",
        "base language model reading the scene as text (the ceiling)",
        "stage1",
        "none",
        with_adapter=False,
        headline="described",
    ),
    Row("stage1", "stage 1 (projector + positions)", "stage1", "own"),
    Row("stage2", "stage 2 (+ LoRA)", "stage2", "own"),
    Row("stage2_no_image", "stage 2, no image (image_index -1)", "stage2", "none"),
    Row("stage2_other_image", "stage 2, image of another sample", "stage2", "other"),
)


def row_slices(row: Row, *, slices: tuple[str, ...]) -> list[str]:
    """The test slices a row answers. The ceiling reads described scenes, so it has none that need an image."""
    wanted = ("described", "text_only") if row.headline == "described" else ("image", "unseen", "text_only")
    return [name for name in wanted if name in slices]
