"""The settings of jobs on benchmarks: one task tuned in one stage (finetune.py), adapters compared (evaluate.py).

A benchmark is named as in memvp_data's table of datasets; its files lie as they were published.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from memvp_core.config import MemVPConfig
from memvp_data.toyworld.formats.album import FormatConfig
from memvp_train.config import StageConfig, VisionConfig
from pipelines.config.errors import RecipeError, check_files, check_name, check_positive
from pipelines.config.job import AnyJobConfig

VIDEO = ("tvqa", "how2qa")
"""Benchmarks that are published as features of frames: no vision tower, no images."""


@dataclass(frozen=True)
class TaskData:
    """One benchmark: what is trained on and what is scored."""

    dataset: str
    """name in memvp_data's table of datasets, such as vqav2"""
    train: str = "train"
    """split that is learnt"""
    tests: tuple[str, ...] = ("test",)
    """splits that are answered and scored"""
    validation: str | None = None
    """split that training is watched on; goes with stage.validation"""
    root: str | None = None
    """folder of the official files; null with toyworld"""
    toyworld: FormatConfig | None = None
    """draw the toy world as the files of this benchmark; null with root"""
    max_shard_samples: int = 1000
    """images per image shard"""


@dataclass(frozen=True)
class AnswerConfig:
    """How questions are answered."""

    batch_size: int = 64
    """questions per forward"""
    max_new_tokens: int = 16
    """longest answer, tokens"""
    num_beams: int = 1
    """beams of the search; 1: greedy"""
    cue: str = ""
    """how each answer is known to begin, such as "The answer is"; the model goes on after it"""
    shown: tuple[Literal["own", "none", "other"], ...] = ("own", "none")
    """which image questions are shown: their own; none or another one's, to see what the image is good for"""
    metric: str | None = None
    """name of a metric of memvp_data, such as vqav2-vlpet; null: the benchmark's own"""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(AnyJobConfig):
    """One job: a benchmark's files to an adapter tuned on it, scored and registered."""

    data: TaskData
    """official files in, samples and shards out"""
    memvp: MemVPConfig
    """the visual prompt"""
    stage: StageConfig
    """how it is tuned"""
    vision: VisionConfig | None = None
    """the vision tower and its preprocessing; null for videos, whose features are published"""
    answers: AnswerConfig = dataclasses.field(default_factory=AnswerConfig)
    """answering the test questions"""
    train_with_images: bool = True
    """false: trained without any image (the blind control); evaluation still shows them"""

    def __post_init__(self) -> None:
        """Refuse what no single setting can know."""
        super().__post_init__()
        check_files(self.data.root, self.data.toyworld)
        _check_vision([self.data.dataset], vision=self.vision)
        if (self.data.validation is None) != (self.stage.validation is None):
            raise RecipeError(
                f"data.validation ({self.data.validation}) names the split and stage.validation says how often; "
                "set both or none"
            )
        check_positive("data", self.data, names=("max_shard_samples",))
        check_positive("answers", self.answers, names=("batch_size", "max_new_tokens", "num_beams"))

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The tuning steps by name."""
        return {"tune": self.stage}


@dataclass(frozen=True)
class BenchmarksData:
    """Several benchmarks, each in its own folder."""

    root: str | None = None
    """folder with a folder per benchmark, named as it; null with toyworld"""
    roots: dict[str, str] = dataclasses.field(default_factory=dict)
    """benchmark -> its folder, where that is another one"""
    toyworld: FormatConfig | None = None
    """draw the toy world as each benchmark; null with root"""
    max_shard_samples: int = 1000
    """images per image shard"""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(AnyJobConfig):
    """One job: adapters of one language model answer benchmarks; scores and one page to compare them."""

    adapters: dict[str, str | None]
    """name -> adapter folder; null: the language model as it is, without an image"""
    benchmarks: dict[str, str]
    """name in memvp_data's table of datasets -> split"""
    data: BenchmarksData
    """official files"""
    vision: VisionConfig | None = None
    """the vision tower the adapters were trained with; null: videos only"""
    templates: dict[str, str] = dataclasses.field(default_factory=dict)
    """benchmark -> template, where it is not the usual one"""
    answers: AnswerConfig = dataclasses.field(default_factory=lambda: AnswerConfig(shown=("own",)))
    """answering the questions"""

    def __post_init__(self) -> None:
        """Refuse what no single setting can know."""
        super().__post_init__()
        check_files(self.data.root or next(iter(self.data.roots.values()), None), self.data.toyworld)
        if not self.adapters or not self.benchmarks:
            raise RecipeError("adapters and benchmarks must each name one or more, as in --adapters.tuned=<folder>")
        for name in self.adapters:
            check_name(name)
        _check_vision(list(self.benchmarks), vision=self.vision)
        check_positive("answers", self.answers, names=("batch_size", "max_new_tokens", "num_beams"))


def _check_vision(datasets: list[str], *, vision: VisionConfig | None) -> None:
    from memvp_data.datasets.table import DATASETS

    for dataset in datasets:
        if dataset not in DATASETS:
            raise RecipeError(f"there is no benchmark {dataset!r}; known: {', '.join(DATASETS)}")
        if dataset in VIDEO and vision is not None:
            raise RecipeError(f"{dataset} is published as features of frames; leave vision out")
        if dataset not in VIDEO and vision is None:
            raise RecipeError(f"{dataset} has images; set vision to the tower that reads them")
