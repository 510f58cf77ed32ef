"""The last FFN for those tokens alone whose logits count: the same loss and gradients, less work.

After the last attention no token looks at another one, so what the last FFN and its memory would say of a token without
a label is thrown away. With answers of one word that is most of a layer, a sixth of the work on a model of four layers.

Dimensions: B sequences, T tokens, L tokens kept of each, D model width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memvp_core import MemVPModel


@contextmanager
def last_ffn_where(model: nn.Module, kept_BT: Tensor | None) -> Iterator[None]:
    """In this block the last FFN of `model` leaves out what is not kept, where that saves work and changes nothing.

    `kept_BT` is best on the CPU: its values decide shapes, which a GPU would have to be waited for.
    """
    # Traced on the meta device values are unknown; a plan counts the whole FFN.
    ffn = None if kept_BT is None or kept_BT.is_meta else _last_ffn(model)
    num_kept = 0 if kept_BT is None or ffn is None else int(kept_BT.sum(dim=1).max())
    if ffn is None or kept_BT is None or not 0 < num_kept <= kept_BT.shape[1] // 2:
        yield
        return
    hooks = _Hooks(_places(kept_BT, num_kept=num_kept))
    handles = [
        ffn.register_forward_pre_hook(hooks.take_out, with_kwargs=True),
        ffn.register_forward_hook(hooks.put_back),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_ffn(model: nn.Module) -> nn.Module | None:
    """The FFN of a causal model's last layer; None where it is not one module, or where leaving out is not safe.

    Dropout would draw other masks, gradient checkpointing runs the layer again when this block is over, and
    torch.compile would translate the model anew for every number of tokens.
    """
    if not isinstance(model, MemVPModel) or model.config.is_encoder_decoder or model.memvp_config.memory_dropout:
        return None
    language: Any = model.language_model
    site = model.injection.sites[-1]
    is_last = site.layer == model.config.get_text_config().num_hidden_layers - 1
    is_plain = not _is_checkpointing(language) and language._compiled_call_impl is None
    if site.first != site.last or not is_last or not is_plain:
        return None
    ffn = language.get_submodule(site.last)
    has_dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in ffn.modules())
    return None if has_dropout else ffn


def _is_checkpointing(language: Any) -> bool:
    """Asked by the newer name where transformers has it: there the older one warns."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    return bool(getattr(language, next(name for name in names if hasattr(type(language), name))))


def _places(kept_BT: Tensor, *, num_kept: int) -> Tensor:
    """(B, L) different places of each row, those that are kept first."""
    return (~kept_BT).to(torch.uint8).argsort(dim=1, stable=True)[:, :num_kept]


class _Hooks:
    """Around the FFN and the hook of its memory, which so reads for the tokens that are kept."""

    def __init__(self, places_BL: Tensor) -> None:
        self._places, self._num_tokens = places_BL, 0

    def take_out(
        self, ffn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The states, (B, T, D) and the FFN's first argument, become (B, L, D)."""
        (name, states), *_ = [*enumerate(args), *kwargs.items()]
        self._num_tokens = states.shape[1]
        taken = states.gather(1, self._index(states))
        return ((taken, *args[1:]), kwargs) if args else (args, kwargs | {name: taken})

    def put_back(self, ffn: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """(B, L, D) to (B, T, D), zeros for what was left out."""
        states = output if isinstance(output, Tensor) else output[0]
        whole = states.new_zeros(states.shape[0], self._num_tokens, states.shape[2])
        whole = whole.scatter(1, self._index(states), states)
        return whole if isinstance(output, Tensor) else (whole, *output[1:])

    def _index(self, states: Tensor) -> Tensor:
        self._places = self._places.to(states.device)
        return self._places[:, :, None].expand(-1, -1, states.shape[2])
