"""Where in the image a word looked: the activations of the image's rows, layer by layer (the paper's Fig. 5)."""

from collections.abc import Generator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memvp_core.model import MemVPModel
from memvp_core.visual_memory import VisualMemory

Keys = Literal["visual", "full"]


@torch.no_grad()
def retrieval_map(
    model: MemVPModel,
    *,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Tensor | None = None,
    memory: VisualMemory,
    image_index: Int[Tensor, "B"] | None = None,
    keys: Keys = "visual",
) -> Float[Tensor, "L B T g"]:
    """phi(<x, key>) of every token for its own image's rows, in each layer with memory.

    "visual" takes lambda f(z) alone as the key, as Fig. 5 does; "full" adds the position, which is what the layer
    really computes. Sequences without an image get zeros. Padding tokens get numbers that mean nothing.
    """
    if keys not in ("visual", "full"):
        raise ValueError(f'keys must be "visual" or "full", got {keys!r}.')
    with _ffn_inputs(model) as inputs:
        model(input_ids, attention_mask, memory=memory, image_index=image_index)
    index = torch.arange(len(input_ids)) if image_index is None else image_index.cpu()
    parts = model.prompt(
        features=None,
        codes=memory.codes.to(input_ids.device),
        row_images=memory.row_images,
        row_weights=memory.row_weights,
        form="direct",
        dtype=torch.float32,
    )
    key_rows, key_positions = parts.rows, parts.key_positions
    maps: list[Tensor] = []
    for layer, (x, site) in enumerate(zip(inputs, model.injection.sites, strict=True)):
        positions = key_positions if key_positions.ndim == 2 else key_positions[layer]
        own_keys = _own_rows(key_rows, index=index)
        if keys == "full":
            own_keys = own_keys + positions[: key_rows.shape[1]]
        activation: Any = attrgetter(site.activation)(model.language_model)
        scores = activation(x.float() @ own_keys.mT)
        maps.append(scores * (index >= 0).to(scores.device)[:, None, None])
    return torch.stack(maps)


@contextmanager
def _ffn_inputs(model: MemVPModel) -> Generator[list[Tensor]]:
    """Collects what each FFN with memory is given, in the order of the layers."""
    inputs: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0].detach())

    language_model = model.language_model
    handles = [
        language_model.get_submodule(site.first).register_forward_pre_hook(keep) for site in model.injection.sites
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _own_rows(rows: Tensor, *, index: Tensor) -> Tensor:
    """Rows (B, g, D) of each sequence's image; any image where it has none."""
    return rows.index_select(0, index.clamp(min=0).to(rows.device))
