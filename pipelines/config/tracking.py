"""Where MLflow keeps the runs, and when a new version becomes the champion."""

import dataclasses
from dataclasses import dataclass

from pipelines.config.errors import RecipeError


@dataclass(frozen=True)
class GateConfig:
    """What a version must reach to be the champion; scores as in report.json (accuracies between 0 and 1)."""

    slice: str | None = None
    """test slice or split whose headline score counts; null: the job's first"""
    min_score: float = 0.0
    """lowest score"""
    max_drop: float | None = 0.0
    """how far below the champion's the score may be, on the same questions; null: the champion is not compared"""


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow keeps the runs."""

    uri: str | None = None
    """tracking server or database; null: sqlite in the storage folder"""
    experiment: str = "memvp"
    """experiment name"""
    registered_model: str = "memvp"
    """name in the model registry; every job registers a version"""
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)
    """when the new version gets the alias champion"""

    def __post_init__(self) -> None:
        """Refuse what MLflow would refuse when everything is trained. Raises RecipeError."""
        name = self.registered_model
        if not name.strip() or "/" in name or ":" in name:
            raise RecipeError(f"tracking.registered_model must be a name without '/' and ':', got {name!r}")
