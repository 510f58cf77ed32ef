"""Settings of training, as frozen dataclasses: models, stages, launch, and the run that binds them.

run: what a stage trains on, and settings from plain data
stage: one stage: how long, in which batches, at which rates
models: language model, vision tower, LoRA
launch: workers and DeepSpeed
errors: how settings refuse
"""

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
    check_precision,
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
    "check_precision",
    "from_plain",
]
