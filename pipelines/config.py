"""The settings of a job, as frozen dataclasses: what a recipe may say. Reading recipes is settings.py.

Settings of the parts (models, stages, launch) live with the parts; this file only adds what the job itself needs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from memvp_core.config import MemVPConfig
from memvp_data.toyworld import ToyWorldConfig
from memvp_train.config import LanguageModelConfig, LaunchConfig, StageConfig, VisionConfig, check_batch_split

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class ConfigError(ValueError):
    """A setting is unknown, has the wrong type, or does not go with another one."""


@dataclass(frozen=True)
class TrainingFile:
    """One official LLaVA conversation file and the folder its "image" fields are relative to."""

    conversations: str
    """JSON list of records, relative to data.root"""
    images: str
    """folder, relative to data.root"""


@dataclass(frozen=True)
class QuestionFile:
    """One official LLaVA question file with its answers."""

    questions: str
    """JSONL of {"question_id", "image", "text", "category"}, relative to data.root"""
    answers: str
    """JSONL of {"question_id", "answer"}, relative to data.root"""
    images: str | None = None
    """folder of the "image" fields, relative to data.root; null: the questions carry no image"""


@dataclass(frozen=True)
class TestConfig:
    """The questions the job is scored on; a slice left out is left out of the results table."""

    __test__ = False  # keeps pytest from collecting this class

    image: QuestionFile
    """image questions, the headline; category = task"""
    unseen: QuestionFile | None = None
    """image questions about things held out of the image training"""
    text_only: QuestionFile | None = None
    """questions whose answer is in the text"""
    described: QuestionFile | None = None
    """the image questions with the scene as text: the base model's ceiling"""


@dataclass(frozen=True)
class DataConfig:
    """Where the official files are. Either they exist below root, or the toy world draws them."""

    stage1: TrainingFile
    """captions for stage 1"""
    stage2: TrainingFile
    """instructions for stage 2; may hold text-only records"""
    test: TestConfig | None = None
    """what to score on; null: train and register only"""
    root: str | None = None
    """folder of the official files; null with toyworld"""
    toyworld: ToyWorldConfig | None = None
    """draw this world and write it as official files; null with root"""
    max_shard_samples: int = 1000
    """images per image shard"""


@dataclass(frozen=True)
class EvaluateConfig:
    """How the test questions are answered."""

    batch_size: int = 32
    """questions per forward"""
    max_new_tokens: int = 8
    """longest answer, tokens"""
    num_pictures: int = 6
    """test images on the retrieval-map page; 0: no page"""


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


@dataclass(frozen=True)
class JobConfig:
    """One job: raw images to an evaluated, registered adapter."""

    name: str
    """run name: the run folder is <storage>/<name>; submit the same name to continue"""
    data: DataConfig
    """official files in, samples and shards out"""
    language: LanguageModelConfig
    """the frozen language model"""
    vision: VisionConfig
    """the frozen vision tower and its preprocessing"""
    memvp: MemVPConfig
    """the visual prompt"""
    stage1: StageConfig
    """projector and positions"""
    stage2: StageConfig
    """the same plus LoRA"""
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    """answering the test questions"""
    launch: LaunchConfig = dataclasses.field(default_factory=LaunchConfig)
    """workers, ZeRO stage, precision"""
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    """MLflow"""
    train_with_images: bool = True
    """false: both stages train without any image (the blind control); evaluation still shows them"""
    storage: str | None = None
    """folder of all runs; null: $MEMVP_STORAGE, else ./runs"""
    verify_outputs: Literal["full", "size"] = "full"
    """before a finished step is re-used: hash its files, or only compare their sizes (terabytes of features)"""

    def __post_init__(self) -> None:
        """Refuse what no single setting can know.

        Raises:
            ConfigError: naming the settings that do not go together.
        """
        check_name(self.name)
        if (self.data.root is None) == (self.data.toyworld is None):
            raise ConfigError(
                "set one of data.root (folder of official files) and data.toyworld (draw them), the other null"
            )
        check_positive("data", self.data, names=("max_shard_samples",))
        check_positive("evaluate", self.evaluate, names=("batch_size", "max_new_tokens"))
        for name, stage in self.stages.items():
            try:
                check_batch_split(stage, num_workers=self.launch.num_workers)
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from error

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The tuning steps by name."""
        return {"stage1": self.stage1, "stage2": self.stage2}


def check_name(name: str) -> None:
    """Refuse a run name that could not name a folder."""
    if not _RUN_NAME.fullmatch(name):
        raise ConfigError(f"name must be 1 to 64 letters, digits, '-' or '_', as it names a folder; got {name!r}")


def check_positive(group: str, part: Any, *, names: Sequence[str]) -> None:
    """Refuse counts below 1 in a group of settings."""
    for name in names:
        if getattr(part, name) < 1:
            raise ConfigError(f"{group}.{name} must be at least 1, got {getattr(part, name)}")


def as_settings(part: Any) -> dict[str, Any]:
    """Dataclass -> plain JSON data (tuples become lists)."""
    return {field.name: _plain(getattr(part, field.name)) for field in dataclasses.fields(part)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_settings(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def flat_settings(settings: dict[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested settings -> {"stage1.learning_rate": 0.001, ...}; the dotted names are the command line's."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat.update(flat_settings(value, prefix=f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
