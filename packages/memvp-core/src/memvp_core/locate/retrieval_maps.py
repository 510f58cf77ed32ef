"""Where in the image a word looked: how strongly each token activates the rows of its image, layer by layer.

The maps are those of Fig. 5 of the paper (arXiv 2405.05615). What can be done about them is in editing.py, whether
they tell the truth in faithfulness.py, how they look in plots.py.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memvp_core.injection import FFNHook, Slot
from memvp_core.locate.editing import mask_rows, rows_in_box, scale_rows
from memvp_core.locate.maps import mean_over_layers, mean_over_tokens, on_grid
from memvp_core.memory.inputs import batch_of
from memvp_core.memory.precision import without_autocast
from memvp_core.memory.prompt import VisualPrompt
from memvp_core.memory.reading import checked_index
from memvp_core.model import MemVPModel
from memvp_core.visual_memory import VisualMemory

__all__ = [
    "Keys",
    "Stack",
    "mask_rows",
    "mean_over_layers",
    "mean_over_tokens",
    "on_grid",
    "retrieval_map",
    "rows_in_box",
    "scale_rows",
]

Keys = Literal["visual", "full"]
Stack = Literal["auto", "encoder", "decoder"]


@torch.no_grad()
def retrieval_map(
    model: MemVPModel,
    *,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Tensor | None = None,
    memory: VisualMemory,
    image_index: Int[Tensor, "B"] | Int[Tensor, "B T"] | None = None,
    keys: Keys = "visual",
    stack: Stack = "auto",
    **kwargs: Any,
) -> Float[Tensor, "L B T g"]:
    """phi(<x, key>) of every token for the rows of its own image, in each layer with memory; in float32 or wider.

    "visual" takes lambda f(z) alone as the key, as Fig. 5 does; "full" is what the layer computes, with the position
    where row and position share a slot. Rows that are blocked or only pad an entry are 0, as are all rows of a token
    without image. Padding tokens get numbers that mean nothing.

    Tokens are the encoder's where it has the memory, else the decoder's; `stack` chooses where both have it. `kwargs`
    go to the language model; an encoder-decoder without `decoder_input_ids` gets its start token, the first answer's.
    """
    _check_keys(model, keys)
    layers = _layers_of(model, stack)
    with _ffn_inputs(model) as inputs:
        kwargs = _decoder_start(model, input_ids) | kwargs
        model(input_ids, attention_mask, memory=memory, image_index=image_index, **kwargs)
    text = batch_of({"input_ids": input_ids} | kwargs, stack=model.memory_stack)
    index = checked_index(image_index, batch_shape=text.shape, num_images=len(memory), has_images=True)
    memory = memory.to(input_ids.device)
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    rows, positions = _key_parts(model.prompt, memory, dtype=dtype)
    maps: list[Tensor] = []
    for layer in layers:
        own_keys = rows if keys == "visual" else _full_keys(rows, positions, layer=layer, prompt=model.prompt)
        activation = attrgetter(model.injection.sites[layer].activation)(model.language_model)
        found = _activations(inputs[layer].to(dtype), own_keys, index=index, activation=activation)
        maps.append(_live_only(found, memory, index=index))
    return torch.stack([one.to(maps[0].device) for one in maps])


def _check_keys(model: MemVPModel, keys: str) -> None:
    if keys not in get_args(Keys):
        raise ValueError(f'keys must be "visual" or "full", got {keys!r}.')
    insert_in = model.memvp_config.insert_in
    if insert_in == "none" or (insert_in == "values" and keys == "visual"):
        instead = "" if insert_in == "none" else ': use keys="full"'
        raise ValueError(
            f'insert_in is "{insert_in}", so no key of this model holds anything of an image, and a map of what it '
            f"retrieves would show nothing of it{instead}."
        )


def _layers_of(model: MemVPModel, stack: str) -> list[int]:
    """Which layers with memory belong to a stack."""
    if stack not in get_args(Stack):
        raise ValueError(f'stack must be "auto", "encoder" or "decoder", got {stack!r}.')
    paths = [site.first.split(".") for site in model.injection.sites]
    in_stack = {name: [layer for layer, path in enumerate(paths) if name in path] for name in ("encoder", "decoder")}
    if stack == "auto":
        return in_stack["encoder"] or list(range(len(paths)))
    if not in_stack[stack]:
        raise ValueError(
            f'no {stack} layer of this model has the memory, only such as {model.injection.sites[0].first}: use "auto".'
        )
    return in_stack[stack]


def _decoder_start(model: MemVPModel, input_ids: Tensor) -> dict[str, Tensor]:
    config: Any = model.language_model.config
    start = getattr(config, "decoder_start_token_id", None)
    if not getattr(config, "is_encoder_decoder", False) or start is None:
        return {}
    return {"decoder_input_ids": input_ids.new_full((len(input_ids), 1), start)}


def _key_parts(prompt: VisualPrompt, memory: VisualMemory, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """lambda f(z), (I, g, D), and the position keys of one or of all layers."""
    parts = prompt(
        features=None,
        codes=memory.codes,
        row_images=memory.row_images,
        row_weights=memory.row_weights,
        form="direct",
        dtype=dtype,
    )
    return parts.rows, parts.key_positions


def _full_keys(rows: Tensor, positions: Tensor, *, layer: int, prompt: VisualPrompt) -> Tensor:
    if prompt.config.position_mode == "concat":
        return rows
    positions = positions if positions.ndim == 2 else positions[layer]
    own = positions[: rows.shape[1]]
    return own.expand_as(rows) if prompt.config.insert_in == "values" else rows + own


def _activations(
    x: Float[Tensor, "B T D"],
    keys: Float[Tensor, "I g D"],
    *,
    index: Int[Tensor, "B"] | Int[Tensor, "B T"],
    activation: Callable[[Tensor], Tensor],
) -> Float[Tensor, "B T g"]:
    """Image by image, so that no keys are copied per token."""
    keys, token_index = keys.to(x.device), _per_token(index, num_tokens=x.shape[1])
    found = x.new_zeros(*x.shape[:2], keys.shape[1])
    for image in range(len(keys)):
        here = (token_index == image).to(x.device)
        with without_autocast(x.device.type):
            found[here] = activation(x[here] @ keys[image].mT)
    return found


def _per_token(index: Tensor, *, num_tokens: int) -> Int[Tensor, "B T"]:
    return index if index.ndim == 2 else index[:, None].expand(-1, num_tokens)


def _live_only(found: Tensor, memory: VisualMemory, *, index: Tensor) -> Float[Tensor, "B T g"]:
    """Zeros where a row is blocked or only pads its entry."""
    live = torch.ones(memory.codes.shape[:2], dtype=torch.bool, device=memory.codes.device)
    if memory.row_images is not None:
        live &= memory.row_images >= 0
    if memory.blocked is not None:
        live &= ~memory.blocked
    own = live[_per_token(index, num_tokens=found.shape[1]).clamp(min=0).to(live.device)]
    return found * own.to(found)


class FFNInputRecorder(FFNHook):
    """Sees the input x of an FFN as the memory sees it, and adds nothing."""

    def __init__(self, *, layer: int, inputs: dict[int, Tensor]) -> None:
        super().__init__(Slot(), layer=layer, activation=torch.clone)
        self._inputs = inputs

    def _added(self, x: Tensor, output: Any) -> None:
        self._inputs[self._layer] = x.detach()


@contextmanager
def _ffn_inputs(model: MemVPModel) -> Generator[dict[int, Tensor]]:
    """Collects what each FFN with memory is given, (batch, tokens, width), by the number of its layer."""
    inputs: dict[int, Tensor] = {}
    handles = [
        handle
        for layer, site in enumerate(model.injection.sites)
        for handle in FFNInputRecorder(layer=layer, inputs=inputs).attach(model.language_model, site)
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
