"""Ablations: which states of a model answer, and which image each is shown.

The states of instruction tuning's results table are fixed here; other jobs name the states they compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ImageShown = Literal["own", "none", "other"]

_SHOWN = {"own": "", "none": ", no image", "other": ", image of another question"}


@dataclass(frozen=True)
class ModelState:
    """A model that answers, and which image it is shown."""

    name: str
    """folder of its predictions"""
    title: str
    """its line in a table of scores"""
    adapter: Path | None
    """adapter that is loaded; None: the base model answers"""
    image: ImageShown
    """which image a question is shown"""


@dataclass(frozen=True)
class Ablation:
    """One line of the results table of instruction tuning."""

    name: str
    """key in report.json"""
    title: str
    """first column"""
    stage: Literal["stage1", "stage2"]
    """stage whose adapter is loaded"""
    image: ImageShown
    """which image the model is shown"""
    with_adapter: bool = True
    """False: the base model answers"""
    headline: str = "image"
    """slice of the headline accuracy"""

    def state(self, adapters: Mapping[str, Path]) -> ModelState:
        """The state, given the adapter of each stage."""
        adapter = adapters[self.stage] if self.with_adapter else None
        return ModelState(self.name, self.title, adapter, self.image)


ABLATIONS = (
    Ablation("base", "base language model, no image", "stage1", "none", with_adapter=False),
    Ablation(
        "text_ceiling",
        "base language model reading the scene as text (the ceiling)",
        "stage1",
        "none",
        with_adapter=False,
        headline="described",
    ),
    Ablation("stage1", "stage 1 (projector + positions)", "stage1", "own"),
    Ablation("stage2", "stage 2 (+ LoRA)", "stage2", "own"),
    Ablation("stage2_no_image", "stage 2, no image (image_index -1)", "stage2", "none"),
    Ablation("stage2_other_image", "stage 2, image of another sample", "stage2", "other"),
)


def slices_of(ablation: Ablation, *, slices: tuple[str, ...]) -> list[str]:
    """The test slices a state answers. The ceiling reads described scenes, so it has none that need an image."""
    wanted = ("described", "text_only") if ablation.headline == "described" else ("image", "unseen", "text_only")
    return [name for name in wanted if name in slices]


def shown_state(who: str, image: ImageShown, *, adapter: Path | None) -> ModelState:
    """An adapter, or the base model, by its name and the image it is shown."""
    return ModelState(image, f"{who}{_SHOWN[image] if adapter is not None else ''}", adapter, image)
