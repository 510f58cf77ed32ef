"""Retrieval maps of test questions: which patches the word of the answer looked up."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memvp_data.features import FeatureStore
from memvp_data.images import PREPROCESSING, load_image, preprocess
from memvp_data.samples import Sample
from memvp_data.shards.reader import ShardReader
from memvp_data.text import encode_prompt
from pipelines.evaluation.retrieval_figure import Panel

_SHOWN_ROWS = {"base": "base", "stage1": "stage 1", "stage2": "stage 2"}


def make_panels(
    samples: Sequence[Sample],
    *,
    model: Any,
    tokenizer: Any,
    features: FeatureStore,
    images: Path,
    predictions: Path,
    template: str,
    preprocessing: str,
) -> list[Panel]:
    """One panel per sample; answers come from the prediction files."""
    reader = ShardReader(images)
    given = {row: _answers(predictions / row / "image.jsonl") for row in _SHOWN_ROWS}
    panels = []
    for sample in samples:
        image_id = sample.image_ids[0]
        (encoded,) = reader.read(image_id).values()
        answers = {"right": ", ".join(sample.answers[:2])}
        answers.update({title: given[row].get(sample.id, "?") for row, title in _SHOWN_ROWS.items()})
        panels.append(
            Panel(
                pixels=_visible(encoded, name=image_id, preprocessing=preprocessing),
                heat=answer_map(
                    model,
                    prompt=encode_prompt(sample, tokenizer=tokenizer, template=template),
                    features=features.load([image_id]),
                ),
                question=sample.turns[-1].text,
                answers=answers,
            )
        )
    return panels


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


def _visible(encoded: bytes, *, name: str, preprocessing: str) -> NDArray[np.float32]:
    """(S, S, 3) in [0, 1]: the preprocessed image with the normalisation undone, so patches line up with the map."""
    how = PREPROCESSING[preprocessing]
    normalised = preprocess(load_image(encoded, name=name), preprocessing=preprocessing)
    mean, std = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (how.mean, how.std))
    return np.clip(normalised * std + mean, 0, 1).transpose(1, 2, 0)


def _answers(path: Path) -> dict[str, str]:
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {str(row["question_id"]): str(row["text"]).strip() for row in rows}
