"""The settings that every kind of job has."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from memvp_train.config import LanguageModelConfig, LaunchConfig, StageConfig, check_batch_split, check_precision
from pipelines.config.errors import RecipeError, check_name
from pipelines.config.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class AnyJobConfig:
    """One job."""

    name: str
    """run name: the run folder is <storage>/<name>; submit the same name to continue"""
    language: LanguageModelConfig
    """the frozen language model"""
    launch: LaunchConfig = dataclasses.field(default_factory=LaunchConfig)
    """workers, ZeRO stage, precision"""
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    """MLflow"""
    storage: str | None = None
    """folder of all runs; null: $MEMVP_STORAGE, else ./runs"""
    verify_outputs: Literal["full", "size"] = "full"
    """before a finished step is re-used: hash its files, or only compare their sizes (terabytes of features)"""

    def __post_init__(self) -> None:
        """Refuse what no single setting can know. Raises RecipeError."""
        check_name(self.name)
        try:
            check_precision(self.launch, self.language)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        for name, stage in self.stages.items():
            try:
                check_batch_split(stage, num_workers=self.launch.num_ranks)
            except ValueError as error:
                raise RecipeError(f"{name if hasattr(self, name) else 'stage'}: {error}") from error

    @property
    def stages(self) -> Mapping[str, StageConfig]:
        """The tuning steps by name; a job that tunes nothing has none."""
        return {}
