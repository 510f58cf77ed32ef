"""Settings of training, as frozen dataclasses: models, stages, launch, and the run that binds them."""

from memvp_train.config.run import (
    ConfigError,
    GroupSettings,
    LanguageModelConfig,
    LaunchConfig,
    LoraSettings,
    ParameterGroups,
    StageConfig,
    StageRun,
    ValidationConfig,
    VisionConfig,
    check_batch_split,
    from_plain,
)

__all__ = [
    "ConfigError",
    "GroupSettings",
    "LanguageModelConfig",
    "LaunchConfig",
    "LoraSettings",
    "ParameterGroups",
    "StageConfig",
    "StageRun",
    "ValidationConfig",
    "VisionConfig",
    "check_batch_split",
    "from_plain",
]
