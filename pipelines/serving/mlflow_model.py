"""The registered model, as code: MLflow runs this file when the model is loaded; nothing is unpickled.

Input rows: {"image": content of an image file, or null for no image; "question": text}. The content is bytes, or text
in base64 or as a data URL, as HTTP needs it. In the caller's own process text is a path, or a data URL; behind
`mlflow models serve` it is never a path, so no client can name a file of the server. A model of videos takes the path
of a clip's features (.npz) as image. Output: one answer per row. Needs memvp_core, memvp_data and memvp_train
installed; the foundation models are loaded from where the job found them.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas
import torch
from torch import Tensor

from memvp_core import MemVPModel
from memvp_data.datasets.frames import load_frames
from memvp_data.images import ImageError, load_image, preprocess
from memvp_data.samples import Sample, Turn
from memvp_train.config import LanguageModelConfig, VisionConfig, from_plain
from memvp_train.features.extract import image_features
from memvp_train.inference.generate import AnswerSettings, answer_samples
from memvp_train.models.language import build_language_model, build_tokenizer
from memvp_train.models.vision import build_tower, build_vision_tower

Image = bytes | str
# MLflow's server tells its own process by it which model to load.
_SERVES = "__pyfunc_model_path__"


class VisualQuestionAnswering(mlflow.pyfunc.PythonModel):
    """Answers (image, question) with the tuned adapter, greedily."""

    def load_context(self, context: Any) -> None:
        """Load settings, adapter and foundation models once."""
        settings = json.loads(Path(context.artifacts["settings"]).read_text(encoding="utf-8"))
        language = from_plain(LanguageModelConfig, settings["language"])
        self.vision = None if settings["vision"] is None else from_plain(VisionConfig, settings["vision"])
        self.answers = AnswerSettings(template=settings["template"], max_new_tokens=settings["max_new_tokens"])
        self.tokenizer = build_tokenizer(language)
        is_live = self.vision is not None and self.vision.adapter_dim > 0
        live = build_vision_tower(self.vision) if self.vision is not None and is_live else None
        self.tower = None if self.vision is None or is_live else build_tower(self.vision)
        adapter = context.artifacts["adapter"]
        self.model = MemVPModel.from_pretrained(build_language_model(language), adapter, live).eval()

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Answer the rows. An image that cannot be read raises an error that names its row."""
        rows = model_input.to_dict("records")
        # A table turns a missing image into NaN.
        given = {f"row_{number}": row["image"] for number, row in enumerate(rows) if _is_image(row.get("image"))}
        names = [f"row_{number}" for number in range(len(rows))]
        samples = [
            Sample(id=name, image_ids=(), turns=(Turn("user", str(row["question"])),))
            for name, row in zip(names, rows, strict=True)
        ]
        shown = [(name,) if name in given else () for name in names]
        source = _Given(given, model=self)
        return answer_samples(self.model, self.tokenizer, samples, shown, source=source, settings=self.answers)

    @torch.inference_mode()
    def features(self, image: Image, *, name: str) -> Tensor:
        """(1, g, c) of one image, rounded as the stored features are, so that answers are those of the evaluation."""
        place = name.replace("_", " ")
        if self.vision is None:
            return torch.from_numpy(load_frames(_own_path(image, place=place)))[None].float()
        picture = load_image(_source(image, place=place), name=place, upright=self.vision.upright)
        pixels = torch.from_numpy(preprocess(picture, preprocessing=self.vision.preprocessing))[None]
        if self.tower is None:
            assert self.model.vision_tower is not None
            return self.model.vision_tower(pixels)
        return image_features(self.tower, pixels, vision=self.vision).float()


class _Given:
    """The images of one call by the names of their rows, as a source of features."""

    def __init__(self, images: Mapping[str, Image], *, model: VisualQuestionAnswering) -> None:
        self._images, self._model = images, model

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def load(self, image_ids: Sequence[str]) -> Tensor:
        return torch.cat([self._model.features(self._images[name], name=name) for name in image_ids])


def _source(image: Image, *, place: str) -> Path | bytes:
    """Bytes, or where this process may read them."""
    if not isinstance(image, str):
        return bytes(image)
    if not image.startswith("data:") and _SERVES not in os.environ:
        return Path(image)
    try:
        return base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image, validate=True)
    except ValueError:
        raise ImageError(
            f"{place}: expected the content of an image file in base64 or as a data URL, got {len(image):,} characters "
            "of something else; a path is read in the caller's own process alone"
        ) from None


def _own_path(image: Image, *, place: str) -> str:
    if _SERVES in os.environ:
        raise ImageError(f"{place}: a model of videos takes paths, which are read in the caller's own process alone")
    return str(image)


def _is_image(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray, str))


mlflow.models.set_model(VisualQuestionAnswering())
