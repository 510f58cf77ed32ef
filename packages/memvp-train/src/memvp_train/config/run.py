"""All settings of training in one place: plain frozen dataclasses that any YAML reader can fill, and a run of them.

Each class refuses impossible values when it is made, in one sentence; what needs a file or a model to be checked is
checked in training/prepare.py before any worker starts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from memvp_train.config.errors import ConfigError as ConfigError
from memvp_train.config.errors import require
from memvp_train.config.launch import LaunchConfig as LaunchConfig
from memvp_train.config.models import LanguageModelConfig as LanguageModelConfig
from memvp_train.config.models import LoraSettings as LoraSettings
from memvp_train.config.models import VisionConfig as VisionConfig
from memvp_train.config.stage import GroupSettings as GroupSettings
from memvp_train.config.stage import ParameterGroups as ParameterGroups
from memvp_train.config.stage import StageConfig as StageConfig
from memvp_train.config.stage import ValidationConfig as ValidationConfig

T = TypeVar("T")


def check_batch_split(stage: StageConfig, *, num_workers: int) -> None:
    """Refuse a global batch that the workers cannot share equally: unequal shares would leave one waiting for ever."""
    workers = max(1, num_workers)
    require(
        stage.global_batch_size % workers == 0,
        message=f"global_batch_size {stage.global_batch_size} must be a multiple of the {workers} workers; "
        f"try {math.ceil(stage.global_batch_size / workers) * workers}",
    )


def check_precision(launch: LaunchConfig, language: LanguageModelConfig) -> None:
    """Refuse a type of weights that the machine of this launch does not compute with."""
    require(
        launch.precision != "fp16" or launch.use_gpu or not launch.splits,
        message=f"launch.precision fp16 with launch.zero_stage {launch.zero_stage} needs launch.use_gpu: DeepSpeed "
        "computes fp16 on few CPUs; take bf16, or zero_stage 0",
    )
    require(
        launch.use_gpu or not language.load_in_4bit,
        message="language.load_in_4bit needs launch.use_gpu; on a CPU take bf16",
    )


@dataclass(frozen=True)
class StageRun:
    """What a stage trains on and where it puts things; plain data."""

    language: LanguageModelConfig
    """The frozen language model."""
    memvp: dict[str, Any]
    """Fields of memvp_core.MemVPConfig."""
    stage: StageConfig
    """How it is trained."""
    samples: str
    """Samples table (Parquet)."""
    features: str | None
    """Folder of feature shards; none trains without any image (a blind control)."""
    init_adapter: str | None
    """Adapter to start from; none starts a new memory."""
    out: str
    """Folder of the stage: adapter/, metrics.jsonl, checkpoints."""
    validation: str | None = None
    """Samples table for `stage.validation`, its images among the features."""
    images: str | None = None
    """Folder of image shards instead of features: every step looks at pixels, through the tower of `vision`."""
    vision: VisionConfig | None = None
    """The live tower; its adapters train, if it has any."""

    def __post_init__(self) -> None:
        require(
            self.features is None or self.images is None,
            message="features and images are both set; train on stored features or from pixels, not both",
        )
        require(
            (self.images is None) == (self.vision is None),
            message="images (folder of image shards) and vision (the live tower) go together; set both or neither",
        )


def from_plain(cls: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `dataclasses.asdict` after a trip through JSON: dataclasses from mappings, tuples from lists."""
    hints = get_type_hints(cls)
    return cls(**{each.name: _part(hints[each.name], values[each.name]) for each in fields(cls)})  # type: ignore[arg-type]


def _part(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
    return value if inner is None or value is None else from_plain(inner, value)  # type: ignore[arg-type]
