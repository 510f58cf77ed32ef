"""A look into a tuned model: which patches the word of an answer looked up, and how large an image's memory is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memvp_data.features import FeatureStore
from memvp_data.images import PREPROCESSING, load_image, preprocess
from memvp_data.samples import Sample, read_samples
from memvp_data.shards.reader import ShardReader
from memvp_data.text import encode_prompt
from memvp_train.config import LanguageModelConfig, VisionConfig
from pipelines.evaluation.chosen_questions import choose
from pipelines.evaluation.questions import QuestionSet, answer_texts
from pipelines.evaluation.retrieval_figure import Panel, draw_retrieval_page

_SHOWN_STATES = {"base": "base", "stage1": "stage 1", "stage2": "stage 2"}


@dataclass(frozen=True)
class LookInside:
    """A tuned model with the features it reads."""

    model: Any
    tokenizer: Any
    features: FeatureStore

    def image_memory_bytes(self) -> int:
        """Bytes of the memory of one image."""
        zeros = torch.zeros(1, *self.features.feature_shape, device=next(self.model.parameters()).device)
        return int(self.model.encode(zeros).nbytes)

    def draw_maps(
        self, questions: QuestionSet, *, count: int, images: Path, vision: VisionConfig, predictions: Path, out: Path
    ) -> list[Path]:
        """A page of `count` questions with their maps below the folder `out`; none where no question has an image."""
        asked = [sample for sample in read_samples(questions.table) if sample.image_ids]
        chosen = choose(asked, count=count)
        if not chosen:
            return []
        given = {
            title: answer_texts(predictions / state / f"{questions.split}.jsonl")
            for state, title in _SHOWN_STATES.items()
        }
        reader = ShardReader(images)
        panels = [
            self._panel(sample, template=questions.template, reader=reader, vision=vision, given=given)
            for sample in chosen
        ]
        out.mkdir(exist_ok=True)
        return [draw_retrieval_page(panels, path=out / "retrieval.png")]

    def _panel(
        self,
        sample: Sample,
        *,
        template: str,
        reader: ShardReader,
        vision: VisionConfig,
        given: Mapping[str, Mapping[str, str]],
    ) -> Panel:
        image_id = sample.image_ids[0]
        (encoded,) = reader.read(image_id).values()
        prompt = encode_prompt(sample, tokenizer=self.tokenizer, template=template)
        answers = {title: texts.get(sample.id, "?") for title, texts in given.items()}
        return Panel(
            pixels=_visible(encoded, name=image_id, vision=vision),
            heat=answer_map(self.model, prompt=prompt, features=self.features.load([image_id])),
            question=sample.turns[-1].text,
            answers={"right": ", ".join(sample.answers[:2]), **answers},
        )


def look_inside(language: LanguageModelConfig, *, adapter: Path, features: Path) -> LookInside:
    """Load a tuned model in evaluation mode."""
    from memvp_core import MemVPModel
    from memvp_train.models.language import build_language_model, build_tokenizer

    model = MemVPModel.from_pretrained(build_language_model(language), adapter).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return LookInside(model, build_tokenizer(language), FeatureStore(features))


def answer_map(model: Any, *, prompt: tuple[int, ...], features: torch.Tensor) -> NDArray[np.float32]:
    """(rows, columns): mean over layers of the retrieval scores at the last prompt position, which predicts the answer.

    Args:
        features: (1, g, c) of the image. Where g is no square the map is one row.
    """
    from memvp_core.locate import retrieval_map

    device = next(model.parameters()).device
    input_ids = torch.tensor([prompt], device=device)
    with torch.inference_mode():
        scores_LBTg = retrieval_map(
            model,
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            memory=model.encode(features.to(device)),
            image_index=torch.zeros(1, dtype=torch.long, device=device),
        )
    scores_g = scores_LBTg[:, 0, -1].float().mean(dim=0)
    side = math.isqrt(len(scores_g))
    shape = (side, side) if side * side == len(scores_g) else (1, len(scores_g))
    return scores_g.reshape(shape).cpu().numpy()


def _visible(encoded: bytes, *, name: str, vision: VisionConfig) -> NDArray[np.float32]:
    """(S, S, 3) in [0, 1]: the preprocessed image with the normalisation undone, so patches line up with the map."""
    how = PREPROCESSING[vision.preprocessing]
    image = load_image(encoded, name=name, upright=vision.upright)
    normalised = preprocess(image, preprocessing=vision.preprocessing)
    mean, std = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (how.mean, how.std))
    return np.clip(normalised * std + mean, 0, 1).transpose(1, 2, 0)
