"""Answers of a model to questions, as a JSONL file: greedy, in batches of like length, every row on its own.

Batch composition never changes an answer (left padding, masked), so the file is the same for any batch size.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from memvp_core import MemVPModel
from memvp_data.atomic import atomic_write
from memvp_data.features import FeatureStore
from memvp_data.samples import Sample
from memvp_data.text import encode_prompt

ImageMode = Literal["own", "none", "other"]


class PredictError(ValueError):
    """Questions cannot be answered with what was given."""


@dataclass(frozen=True)
class _Prompt:
    place: int
    """Position of the sample in the input and of its row in the file."""
    input_ids: tuple[int, ...]
    image_id: str | None


def predict(
    model: MemVPModel,
    tokenizer: Any,
    samples: Sequence[Sample],
    features: FeatureStore | None,
    *,
    template: str,
    out_path: Path | str,
    batch_size: int = 64,
    image: ImageMode = "own",
    max_new_tokens: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """Write one row {"question_id", "text", "prompt", "image"} per sample, in the order of `samples`, atomically.

    `image` "own" shows each question its image, "none" no image at all, "other" the image of another sample (see
    `other_images`). Samples without an image are answered without one in every mode. `progress` gets the number of
    answers so far. The model is left in the mode (train or eval) it came in.
    """
    shown = _shown_images(samples, image=image)
    _check_features(shown, features=features)
    prompts = [
        _Prompt(place, encode_prompt(sample, tokenizer=tokenizer, template=template), shown[place])
        for place, sample in enumerate(samples)
    ]
    answers: dict[int, str] = {}
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(prompts, size=batch_size):
            texts = _answer(model, batch, tokenizer=tokenizer, features=features, max_new_tokens=max_new_tokens)
            answers |= {prompt.place: text for prompt, text in zip(batch, texts, strict=True)}
            progress(len(answers))
    finally:
        model.train(was_training)
    rows = (_row(sample, text=answers[place], image=shown[place]) for place, sample in enumerate(samples))
    return _write(Path(out_path), rows=rows)


def other_images(samples: Sequence[Sample]) -> dict[str, str]:
    """Each image to another one: a rotation of the images in the order of first use by half their number.

    Deterministic, without a fixed point, and far enough that questions about one image do not come back to it.
    """
    images = list(dict.fromkeys(image_id for sample in samples for image_id in sample.image_ids[:1]))
    if len(images) == 1:
        raise PredictError(f"there is only one image, {images[0]!r}; showing another one needs two or more")
    shift = len(images) // 2
    return {image_id: images[(place + shift) % len(images)] for place, image_id in enumerate(images)}


def _shown_images(samples: Sequence[Sample], *, image: ImageMode) -> list[str | None]:
    own = [sample.image_ids[0] if sample.image_ids else None for sample in samples]
    if image == "none":
        return [None] * len(own)
    if image == "own":
        return own
    if image != "other":
        raise PredictError(f"image must be own, none or other, got {image!r}")
    other = other_images(samples)
    return [None if image_id is None else other[image_id] for image_id in own]


def _check_features(shown: Sequence[str | None], *, features: FeatureStore | None) -> None:
    missing = sorted(
        {image_id for image_id in shown if image_id is not None and (features is None or image_id not in features)}
    )
    if missing:
        raise PredictError(
            f"{len(missing)} images have no features, first {missing[0]!r}; extract them, or use image='none'"
        )


def _batches(prompts: Sequence[_Prompt], *, size: int) -> Iterator[list[_Prompt]]:
    """Longest first: the largest batch comes when the user is still watching, and little is padded."""
    if size < 1:
        raise PredictError(f"batch_size must be at least 1, got {size}")
    ordered = sorted(prompts, key=lambda prompt: (-len(prompt.input_ids), prompt.place))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@torch.inference_mode()
def _answer(
    model: MemVPModel, batch: list[_Prompt], *, tokenizer: Any, features: FeatureStore | None, max_new_tokens: int
) -> list[str]:
    device = next(model.parameters()).device
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    input_ids, attention_mask = _left_padded([prompt.input_ids for prompt in batch], padding=padding)
    images = list(dict.fromkeys(prompt.image_id for prompt in batch if prompt.image_id is not None))
    places = {image_id: place for place, image_id in enumerate(images)}
    index = [-1 if prompt.image_id is None else places[prompt.image_id] for prompt in batch]
    memory = model.encode(features.load(images).to(device)) if features is not None and images else None
    output = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        memory=memory,
        image_index=torch.tensor(index, device=device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=padding,
    )
    return [text.strip() for text in tokenizer.batch_decode(output[:, input_ids.shape[1] :], skip_special_tokens=True)]


def _left_padded(rows: Sequence[Sequence[int]], *, padding: int) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask, rows pushed to the right."""
    length = max(map(len, rows))
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _row(sample: Sample, *, text: str, image: str | None) -> dict[str, str | None]:
    question = next((turn.text for turn in reversed(sample.turns) if turn.role == "user"), "")
    return {"question_id": sample.id, "text": text, "prompt": question, "image": image}


def _write(path: Path, *, rows: Iterable[dict[str, str | None]]) -> Path:
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return path
