"""The settings of a job, as frozen dataclasses: what a recipe may say. Reading recipes: jobs/command_line.py.

Settings of the parts (models, stages, launch) live with the parts; this file only adds what the job itself needs.
"""

import dataclasses
from dataclasses import dataclass

from memvp_core.config import MemVPConfig
from memvp_data.toyworld import ToyWorldConfig
from memvp_train.config import StageConfig, VisionConfig
from pipelines.config.errors import check_files, check_positive
from pipelines.config.job import AnyJobConfig


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


@dataclass(frozen=True, kw_only=True)
class JobConfig(AnyJobConfig):
    """One job: raw images to an evaluated, registered adapter."""

    data: DataConfig
    """official files in, samples and shards out"""
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
    train_with_images: bool = True
    """false: both stages train without any image (the blind control); evaluation still shows them"""

    def __post_init__(self) -> None:
        """Refuse what no single setting can know.

        Raises:
            RecipeError: naming the settings that do not go together.
        """
        super().__post_init__()
        check_files(self.data.root, self.data.toyworld)
        check_positive("data", self.data, names=("max_shard_samples",))
        check_positive("evaluate", self.evaluate, names=("batch_size", "max_new_tokens"))

    @property
    def stages(self) -> dict[str, StageConfig]:
        """The tuning steps by name."""
        return {"stage1": self.stage1, "stage2": self.stage2}
