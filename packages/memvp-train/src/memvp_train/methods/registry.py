"""Tuning methods by name: images in memory, as input tokens, or that and training all weights.

Dimensions: B sequences, T text tokens, I images, P rows of an image, V feature width, D model width.
"""

from typing import Any, Literal

from torch import nn

from memvp_core import MemVPConfig
from memvp_core.lora import inject_lora
from memvp_train.config import LoraSettings, VisionConfig
from memvp_train.methods.input_space import InputSpaceModel
from memvp_train.methods.memvp import build_memvp_model, lora_config
from memvp_train.models.vision import build_vision_tower

Method = Literal["memory", "input space", "full"]
METHODS: tuple[Method, ...] = ("memory", "input space", "full")
"""`memory` is MemVP. `input space` puts the projected rows before the text, as LLaVA does, and trains projector and
LoRA; `full` does that too and trains every weight of the language model instead of a LoRA."""


def build_method(
    method: Method,
    language_model: Any,
    *,
    memvp: dict[str, Any],
    lora: LoraSettings | None,
    vision: VisionConfig | None = None,
    meta: bool = False,
) -> nn.Module:
    """The model of a method, in training mode, on the language model, which it changes; what does not train is frozen.

    With `vision` the tower is live, and its adapters train too; `meta` builds it without memory for weights.
    """
    if method == "memory":
        model = build_memvp_model(language_model, memvp=memvp, lora=lora, init_adapter=None, vision=vision, meta=meta)
        return model.train()
    language_model.requires_grad_(method == "full")
    if method == "input space" and lora is not None:
        inject_lora(language_model, lora_config(lora, encoder_decoder=language_model.config.is_encoder_decoder))
    tower = None if vision is None else build_vision_tower(vision, meta=meta)
    return InputSpaceModel(language_model, MemVPConfig.from_dict(memvp), tower).train()
