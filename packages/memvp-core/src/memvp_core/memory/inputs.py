"""The inputs of a call: what it may bring as images, and the Reading that is made of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memvp_core.config import MemVPConfig, TargetStack
from memvp_core.memory.precision import product_dtype
from memvp_core.memory.prompt import VisualPrompt
from memvp_core.memory.reading import Images, Reading, checked_index, make_generating_reading, make_reading
from memvp_core.visual_memory import VisualMemory, is_same_projector

_TEXT = ("input_ids", "inputs", "inputs_embeds", "encoder_outputs")
_DECODER_TEXT = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
_OUT_OF_ORDER = (
    *("prefill_chunk_size", "prompt_lookup_num_tokens", "assistant_model", "assistant_early_exit", "use_mtp"),
    *("token_healing", "negative_prompt_ids", "custom_generate"),
)
"""Ways of `generate` that give the layers other pieces of text than the prompt and then one token after another."""


def batch_of(inputs: Mapping[str, Any], *, stack: TargetStack | None) -> Tensor:
    """The text of a call, (B, T) or (B, T, D), whose sequences and tokens an image index counts.

    `stack` is the one of an encoder-decoder that has the memory: with "decoder" it is the decoder's text.
    """
    names = (*_DECODER_TEXT, *_TEXT) if stack == "decoder" else _TEXT
    text = next((inputs[name] for name in names if inputs.get(name) is not None), None)
    if text is None:
        raise ValueError("expected a text, as input_ids or inputs_embeds; got neither.")
    return text if isinstance(text, Tensor) else text[0]


def check_encoder_runs(inputs: Mapping[str, Any], *, images: tuple[Any, ...], stack: TargetStack | None) -> None:
    """Refuse images for an encoder that will not run."""
    given = any(one is not None and len(one) for one in images)
    if given and stack == "encoder" and inputs.get("encoder_outputs") is not None:
        raise ValueError(
            "encoder_outputs come from an encoder that has read its images, so images given beside them would have "
            "no effect: leave the images out, or give input_ids instead of encoder_outputs."
        )


def check_order(reading: Reading, settings: Mapping[str, Any], *, own: Any, stack: TargetStack | None) -> None:
    """Refuse an index per token where `generate` does not show the layers the whole prompt, and then what follows it.

    `settings` are what `generate` was called with, `own` the model's generation_config.
    """
    if reading.arrangement.num_tokens is None:
        return
    configs = (settings.get("generation_config"), own)
    found = [
        name for name in _OUT_OF_ORDER if settings.get(name) or any(getattr(config, name, None) for config in configs)
    ]
    if found or stack == "decoder":
        what = f"with {found[0]}" if found else "in the decoder, which begins a text of its own,"
        raise ValueError(
            f"generating {what} does not go through the tokens of an image_index per token, "
            f"{tuple(reading.arrangement.index.shape)}, from left to right: give one image per sequence."
        )


def read_inputs(
    prompt: VisualPrompt,
    config: MemVPConfig,
    *,
    batch: Tensor,
    visual_features: Tensor | None,
    row_images: Tensor | None,
    memory: VisualMemory | None,
    image_index: Tensor | None,
    dtype: torch.dtype,
    is_generating: bool,
    is_training: bool,
) -> Reading:
    """What the layers will read while `batch`, (B, T) or (B, T, D), goes through the language model of a dtype."""
    if memory is not None and visual_features is not None:
        raise ValueError("give visual_features or memory, not both.")
    has_images = memory is not None or (visual_features is not None and len(visual_features) > 0)
    if memory is not None:
        images = memory_images(memory, prompt=prompt, config=config, device=batch.device)
    else:
        images = feature_images(visual_features, row_images=row_images, prompt=prompt, config=config, batch=batch)
    index = checked_index(image_index, batch_shape=batch.shape, num_images=images.shape[0], has_images=has_images)
    if index.ndim == 2 and config.target_stack == "both":
        raise ValueError('an image_index per token needs one stack to count in; target_stack is "both".')
    num_tokens = batch.shape[1]
    dtype = product_dtype(dtype, device=prompt.device.type)
    if is_generating:
        return make_generating_reading(prompt, images, image_index=index, num_tokens=num_tokens, dtype=dtype)
    return make_reading(prompt, images, image_index=index, num_tokens=num_tokens, dtype=dtype, is_training=is_training)


def feature_images(
    features: Tensor | None, *, row_images: Tensor | None, prompt: VisualPrompt, config: MemVPConfig, batch: Tensor
) -> Images:
    """Checked features. A call without any image still has features, none of them."""
    if features is None:
        # Through the prompt all the same: there DDP's and ZeRO's hooks sit, and its gradients must be zeros.
        features = batch.new_empty((0, 1, config.vision_hidden_size), dtype=prompt.dtype)
    check_features(features, config=config)
    check_rows(features.shape[:2], row_images=row_images, config=config)
    return Images(features, row_images=row_images)


def memory_images(memory: VisualMemory, *, prompt: VisualPrompt, config: MemVPConfig, device: torch.device) -> Images:
    """What a memory holds, on the batch's device, if it was made by the prompt's projector."""
    present = prompt.projector_name()
    if not is_same_projector(memory.projector, present):
        raise ValueError(
            f"this memory was made by projector {memory.projector}, the model now has {present}: "
            "encode the images again with this model."
        )
    check_rows(memory.codes.shape[:2], row_images=memory.row_images, config=config)
    memory = memory.to(device)
    return Images(None, memory.codes, memory.row_images, memory.row_weights, memory.blocked)


def check_features(features: Tensor, *, config: MemVPConfig) -> None:
    """Features are (I, g, vision_hidden_size)."""
    width = config.vision_hidden_size
    if features.ndim != 3 or features.shape[-1] != width:
        raise ValueError(
            f"visual features must have the shape (images, rows, {width}), got {tuple(features.shape)}: "
            "the model was made for another vision tower."
        )


def check_rows(shape: torch.Size, *, row_images: Tensor | None, config: MemVPConfig) -> None:
    """`shape` is (I, g): images and rows; `row_images` says which image of its entry each row shows."""
    if shape[1] > config.num_slots and config.position_mode == "add":
        raise ValueError(
            f"an image has {shape[1]} rows here, but the memory has only {config.num_slots} slots: "
            f"set num_slots to at least {shape[1]}."
        )
    if row_images is None:
        return
    if row_images.shape != shape or row_images.is_floating_point():
        raise ValueError(
            f"row_images must hold one whole number per row, {tuple(shape)}; "
            f"got {row_images.dtype} of shape {tuple(row_images.shape)}."
        )
    if config.num_images > 1 and row_images.numel() and int(row_images.max()) >= config.num_images:
        raise ValueError(
            f"an entry holds {int(row_images.max()) + 1} images here, but there are {config.num_images} image "
            f"embeddings: set num_images to at least {int(row_images.max()) + 1}."
        )
