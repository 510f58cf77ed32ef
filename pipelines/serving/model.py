"""The registered model, as code: MLflow runs this file when the model is loaded; nothing is unpickled.

Input rows: {"image": content of an image file (bytes), its path, or null for no image; "question": text}. Output: one
answer per row. Needs memvp_core, memvp_data and memvp_train installed; the foundation models are loaded from where the
job found them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas
import torch

from memvp_core import MemVPModel, VisualMemory
from memvp_data.images import load_image, preprocess
from memvp_data.samples import Sample, Turn
from memvp_data.text import encode_prompt
from memvp_train.config import LanguageModelConfig, VisionConfig
from memvp_train.features import image_features
from memvp_train.models import build_language_model, build_tokenizer, build_tower


class VisualQuestionAnswering(mlflow.pyfunc.PythonModel):
    """Answers (image, question) with the tuned adapter, greedily."""

    def load_context(self, context: Any) -> None:
        """Load settings, adapter and foundation models once."""
        self.settings = json.loads(Path(context.artifacts["settings"]).read_text(encoding="utf-8"))
        language = LanguageModelConfig(**self.settings["language"])
        self.vision = VisionConfig(**self.settings["vision"])
        self.tokenizer = build_tokenizer(language)
        self.tower = build_tower(self.vision)
        self.model = MemVPModel.from_pretrained(build_language_model(language), context.artifacts["adapter"]).eval()

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """Answer each row. An image that cannot be read raises an error that names its row."""
        rows = model_input.to_dict("records")
        return [self._answer(row, number=number) for number, row in enumerate(rows)]

    @torch.inference_mode()
    def _answer(self, row: dict[str, Any], *, number: int) -> str:
        sample = Sample(id=f"row-{number}", image_ids=(), turns=(Turn("user", str(row["question"])),))
        prompt = encode_prompt(sample, tokenizer=self.tokenizer, template=self.settings["template"])
        memory = self._memory(row.get("image"), name=f"row {number}")
        input_ids = torch.tensor([prompt])
        output = self.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            memory=memory,
            image_index=torch.tensor([-1 if memory is None else 0]),
            max_new_tokens=self.settings["max_new_tokens"],
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )
        return self.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()

    def _memory(self, image: bytes | str | None, *, name: str) -> VisualMemory | None:
        # A table turns a missing image into NaN.
        if not isinstance(image, (bytes, bytearray, str)):
            return None
        picture = load_image(Path(image) if isinstance(image, str) else bytes(image), name=name)
        pixels = torch.from_numpy(preprocess(picture, preprocessing=self.vision.preprocessing))[None]
        # Rounded as the stored features are, so that answers are those of the evaluation.
        return self.model.encode(image_features(self.tower, pixels, vision=self.vision).float())


mlflow.models.set_model(VisualQuestionAnswering())
