"""A prediction job as plain data: which model answers which questions, and which images it is shown."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memvp_data.files.hashing import folder_hash, hash_file
from memvp_data.shards.manifest import Manifest
from memvp_train.config import LanguageModelConfig, VisionConfig, from_plain
from memvp_train.inference.answer_files import digest
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.image_memory import ImageMode, PredictError
from memvp_train.models.fingerprint import model_fingerprint
from memvp_train.models.language import resolve_path

# Raised when the same job would write other rows than before.
_FORMAT = 1


@dataclass(frozen=True)
class PredictionJob:
    """One model, one table of questions. It survives `dataclasses.asdict`, JSON and `job_from_dict`."""

    language: LanguageModelConfig
    """The language model."""
    adapter: str | None
    """Folder of the adapter; none lets the language model answer alone, without any image."""
    samples: str
    """Samples table (Parquet); an answer that a sample already has is not shown."""
    settings: AnswerSettings
    """How questions are put and answers are found."""
    features: str | None = None
    """Folder of feature shards."""
    images: str | None = None
    """Folder of image shards, for a tower that looks at pixels; then `vision` names it, and `features` is not set."""
    vision: VisionConfig | None = None
    """The tower of `images`."""
    image: ImageMode = "own"
    """Shows each question its own images, none at all, or those of another sample (`other_images`)."""
    samples_per_shard: int = 1024
    """Samples after which a shard ends: what is lost at most when an actor dies. The memory of its images is kept."""

    def __post_init__(self) -> None:
        if self.image not in ("own", "none", "other"):
            raise PredictError(f"image must be own, none or other, got {self.image!r}")
        if self.samples_per_shard < 1:
            raise PredictError(f"samples_per_shard must be at least 1, got {self.samples_per_shard}; try 1024")
        if self.adapter is None and self.image != "none":
            raise PredictError(f"without an adapter no image can be shown, but image is {self.image!r}; set it to none")
        if (self.images is None) != (self.vision is None) or (self.images and self.features):
            raise PredictError("give features, or images together with vision, or none of the three")

    def made_from(self) -> str:
        """A hash of all that decides the answers, by content; neither the batch size nor the cut into shards does."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "batch_size"}
        folder = self.features or self.images
        shown = {"images": None if folder is None else Manifest.load(folder).digest, "tower": _content(self.vision)}
        return digest(
            {
                "format": _FORMAT,
                "language": _content(self.language),
                "adapter": None if self.adapter is None else folder_hash(Path(self.adapter)),
                "samples": hash_file(Path(self.samples)),
                "settings": settings,
                "image": self.image,
                **({} if self.image == "none" else shown),
            }
        )

    def absolute(self) -> "PredictionJob":
        """With absolute paths: actors run in another folder, perhaps on another machine."""
        paths = {name: getattr(self, name) for name in ("adapter", "samples", "features", "images")}
        found = {name: None if path is None else str(Path(path).resolve()) for name, path in paths.items()}
        language = replace(self.language, path=resolve_path(self.language.path))
        vision = None if self.vision is None else replace(self.vision, path=resolve_path(self.vision.path))
        return replace(self, language=language, vision=vision, **found)


def _content(model: LanguageModelConfig | VisionConfig | None) -> dict[str, Any] | None:
    """Settings of a model, its files in place of its path."""
    if model is None:
        return None
    settings = {name: value for name, value in asdict(model).items() if name != "batch_size"}
    return settings | {"path": model_fingerprint(resolve_path(model.path))}


def job_from_dict(values: Mapping[str, Any]) -> PredictionJob:
    """The inverse of `dataclasses.asdict` after a trip through JSON."""
    return from_plain(PredictionJob, values)
