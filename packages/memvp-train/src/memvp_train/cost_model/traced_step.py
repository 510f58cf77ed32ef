"""Forward and backward of one micro-batch, traced on a model without weights: what a plan knows of the step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from memvp_train.config import LanguageModelConfig, LoraSettings, VisionConfig
from memvp_train.cost_model.hardware import Machine
from memvp_train.cost_model.memory import Counts
from memvp_train.cost_model.micro_batch import StepShape
from memvp_train.cost_model.trace import Trace, tracing
from memvp_train.methods.registry import Method, build_method
from memvp_train.models.language import build_language_model
from memvp_train.training.loss import micro_batch_loss

_META = torch.device("meta")
Gradients = Literal["new", "accumulated", "sent"]
"""None is there before; or those of an earlier micro-batch are; or each is sent and let go at once (ZeRO-2 and 3)."""


@dataclass(frozen=True)
class TracedStep:
    """Forward and backward of one micro-batch."""

    trace: Trace
    """Its operations and the bytes alive at the worst moment, beyond weights and gradients that were there before."""
    counts: Counts
    """Parameters of the model."""
    image_bytes: int
    """What the images have become when the language model starts."""


def build_on_meta(
    method: Method,
    *,
    language: LanguageModelConfig,
    memvp: Mapping[str, Any],
    lora: LoraSettings | None,
    dtype: torch.dtype,
    vision: VisionConfig | None = None,
    recomputes: bool = False,
) -> Any:
    """A method's model as a stage trains it, on the meta device; `vision` is a live tower, `recomputes` gradient
    checkpointing."""
    language_model = build_language_model(language, dtype=dtype, meta=True)
    model: Any = build_method(method, language_model, memvp=dict(memvp), lora=lora, vision=vision, meta=True)
    if recomputes:
        model.gradient_checkpointing_enable()
    return model.to(dtype=dtype)


def trace_step(model: Any, shape: StepShape, *, machine: Machine, gradients: Gradients) -> TracedStep:
    """Run forward and backward as training does, on a model on the meta device."""
    parameters = list(model.parameters())
    _prepare([parameter for parameter in parameters if parameter.requires_grad], gradients=gradients)
    started: list[int] = []
    is_encoder_decoder = model.language_model.config.is_encoder_decoder
    batch = shape.batch(device=_META, is_encoder_decoder=is_encoder_decoder)
    num_labels = shape.num_sequences * shape.num_labels
    with tracing(num_selected=num_labels, fuses_all_attention=machine.fuses_all_attention) as trace:
        hook = model.language_model.register_forward_pre_hook(lambda *_: started.append(trace.live_bytes))
        micro_batch_loss(model, batch, device=_META, dtype=parameters[0].dtype).backward()
    hook.remove()
    return TracedStep(trace, Counts.of(model), started[0] + batch.visual_features.nbytes)


def _prepare(trained: list[nn.Parameter], *, gradients: Gradients) -> None:
    for parameter in trained:
        if gradients == "sent":
            parameter.register_post_accumulate_grad_hook(_let_go)
        elif gradients == "accumulated":
            parameter.grad = torch.empty_like(parameter)


def _let_go(parameter: Any) -> None:
    parameter.grad = None
