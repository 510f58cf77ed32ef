"""The model and the images of a prediction job, loaded once and kept while the next shard needs the same."""

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

from memvp_core import MemVPModel
from memvp_data.features import FeatureStore
from memvp_data.samples import read_image_ids
from memvp_train.features.live import LiveFeatures, pixel_store
from memvp_train.inference.image_memory import FeatureSource, Shown, other_images
from memvp_train.inference.prediction_job import PredictionJob
from memvp_train.models.language import build_language_model, build_tokenizer
from memvp_train.models.vision import build_vision_tower

Thing = TypeVar("Thing")


class LoadedJobs:
    """What jobs need, one of each kind at a time: two copies of a 7B model would not fit where one does."""

    def __init__(self) -> None:
        self._model, self._features, self._others = (_Kept[Any]() for _ in range(3))

    def model(self, job: PredictionJob) -> tuple[Any, Any]:
        """Model with the job's adapter, in evaluation mode, and tokenizer."""
        return self._model.get((job.language, job.adapter, job.vision), lambda: _load_model(job))

    def source(self, job: PredictionJob) -> FeatureSource | None:
        """Where the features of the job's images come from."""
        if job.images is not None and job.vision is not None:
            model, _ = self.model(job)
            return LiveFeatures(model.vision_tower, stored_images(job), batch_size=job.vision.batch_size)
        return None if job.features is None else self._features.get(job.features, lambda: stored_images(job))

    def shown(self, job: PredictionJob, images: Sequence[Shown]) -> list[Shown]:
        """The images that each question is shown in place of its own."""
        if job.image == "none":
            return [()] * len(images)
        if job.image == "own":
            return list(images)
        other: Mapping[str, str] = self._others.get(job.samples, lambda: other_images(read_image_ids(job.samples)))
        return [tuple(other[image_id] for image_id in own) for own in images]


class _Kept(Generic[Thing]):
    """The last thing that was made, and what it was made for."""

    def __init__(self) -> None:
        self._key: Any = None
        self._thing: Thing | None = None

    def get(self, key: Any, make: Callable[[], Thing]) -> Thing:
        """The thing for `key`, made unless it is the one at hand, which is let go first."""
        if self._thing is None or self._key != key:
            self._thing = None
            gc.collect()
            self._thing, self._key = make(), key
        return self._thing


def stored_images(job: PredictionJob) -> Any:
    """The features or the pixels that a job's images are read from, None if it shows none; no model is loaded."""
    if job.images is not None and job.vision is not None:
        return pixel_store(job.images, job.vision)
    return None if job.features is None or job.image == "none" else FeatureStore(job.features)


def _load_model(job: PredictionJob) -> tuple[Any, Any]:
    model: Any = build_language_model(job.language)
    if job.adapter is not None:
        tower = None if job.vision is None else build_vision_tower(job.vision)
        model = MemVPModel.from_pretrained(model, job.adapter, tower)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), build_tokenizer(job.language)
