"""Answers of one model in this process: in batches of like length, every row on its own.

Batch composition never changes an answer (padding is masked), so answers are the same for any batch size.

Dimensions: B questions, T tokens of the longest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memvp_core import MemVPModel
from memvp_data.samples import Sample
from memvp_data.text import encode_prompt
from memvp_train.inference.image_memory import FeatureSource, ImageMemory, PredictError, Shown


@dataclass(frozen=True)
class AnswerSettings:
    """How questions are put and answers are found."""

    template: str
    """Name of a template in memvp_data.text."""
    max_new_tokens: int = 16
    """Longest answer."""
    cue: str = ""
    """How the answer is known to begin ("The answer is"); the model goes on after it, and it is not written down."""
    num_beams: int = 1
    """1 is greedy; more is beam search."""
    max_length: int | None = None
    """Longest prompt, shortened as in training; see `memvp_data.text.encode_prompt`."""
    batch_size: int = 64
    """Questions per call of `generate`; changes the speed, not the answers."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams", "batch_size"):
            if getattr(self, name) < 1:
                raise PredictError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Prompt:
    place: int
    """Position of its sample."""
    input_ids: tuple[int, ...]
    shown: Shown


def answer_samples(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    shown: Sequence[Shown],
    *,
    source: FeatureSource | None,
    settings: AnswerSettings,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The answer to each sample's last question, in the order of `samples`.

    `model` is a MemVPModel, or a language model alone if no question is shown an image; `shown` names the images of
    each question. `progress` gets the number of answers so far. The model is left in the mode (train or eval) it came
    in.
    """
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    prompts = [
        _Prompt(
            place, _prompt_ids(sample, tokenizer=tokenizer, settings=settings, to_encoder=is_encoder_decoder), images
        )
        for place, (sample, images) in enumerate(zip(samples, shown, strict=True))
    ]
    answers: dict[int, str] = {}
    was_training = model.training
    model.eval()
    try:
        memory = ImageMemory(model, shown, source=source)
        for batch in _batches(prompts, size=settings.batch_size):
            texts = _answer(model, batch, memory=memory, tokenizer=tokenizer, settings=settings)
            answers |= {prompt.place: text for prompt, text in zip(batch, texts, strict=True)}
            progress(len(answers))
    finally:
        model.train(was_training)
    return [answers[place] for place in range(len(samples))]


def _prompt_ids(sample: Sample, *, tokenizer: Any, settings: AnswerSettings, to_encoder: bool) -> tuple[int, ...]:
    return encode_prompt(
        sample,
        tokenizer=tokenizer,
        template=settings.template,
        cue=settings.cue,
        encoder_decoder=to_encoder,
        max_length=settings.max_length,
    )


def _batches(prompts: Sequence[_Prompt], *, size: int) -> Iterator[list[_Prompt]]:
    """Longest first: what needs most memory comes at once, and little is padded."""
    ordered = sorted(prompts, key=lambda prompt: (-len(prompt.input_ids), prompt.place))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@torch.inference_mode()
def _answer(
    model: Any, batch: Sequence[_Prompt], *, memory: ImageMemory, tokenizer: Any, settings: AnswerSettings
) -> list[str]:
    device = next(model.parameters()).device
    is_encoder_decoder = bool(model.config.is_encoder_decoder)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    input_ids, attention_mask = padded([p.input_ids for p in batch], padding=padding, on_left=not is_encoder_decoder)
    output = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        **_images(model, batch, memory=memory),
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        num_beams=settings.num_beams,
        pad_token_id=padding,
    )
    # A decoder of its own begins with its start token, any other model's output with the prompt.
    first = 1 if is_encoder_decoder else input_ids.shape[1]
    return [text.strip() for text in tokenizer.batch_decode(output[:, first:], skip_special_tokens=True)]


def _images(model: Any, batch: Sequence[_Prompt], *, memory: ImageMemory) -> dict[str, Any]:
    if not isinstance(model, MemVPModel):
        return {}
    entries, index = memory.read_by([prompt.shown for prompt in batch])
    return {"memory": entries, "image_index": index.to(next(model.parameters()).device)}


def padded(rows: Sequence[Sequence[int]], *, padding: int, on_left: bool) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask. A decoder's rows are pushed to the right, where it goes on; an encoder's to the left."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), padding)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if on_left else slice(0, len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return ids, mask
