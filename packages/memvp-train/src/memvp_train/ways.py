"""The ways to show a language model images that a plan compares: in memory, as input tokens, or training all weights.

Dimensions: B sequences, T text tokens, I images, P rows of an image, V feature width, D model width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from memvp_core import MemVPConfig
from memvp_core.lora import inject_lora
from memvp_data.batch import Batch
from memvp_data.text import IGNORED
from memvp_train.config import LoraSettings, VisionConfig
from memvp_train.models import build_memvp_model, lora_config
from memvp_train.towers import build_vision_tower

Way = Literal["memory", "input space", "full"]
WAYS: tuple[Way, ...] = ("memory", "input space", "full")
"""`memory` is MemVP. `input space` puts the projected rows before the text, as LLaVA does, and trains projector and
LoRA; `full` does that too and trains every weight of the language model instead of a LoRA."""


@dataclass(frozen=True)
class StepShape:
    """The sizes of a micro-batch."""

    num_sequences: int
    """Sequences (B)."""
    num_tokens: int
    """Text tokens of each (T), learnt ones among them."""
    num_labels: int
    """Learnt tokens of each; an encoder-decoder has them in its decoder."""
    num_rows: int
    """Rows of an image (P); every sequence has its own."""
    width: int
    """Width of a row (V)."""
    image_side: int | None = None
    """Pixels per side, where a live tower looks at the images; None: their features are stored."""

    def batch(self, *, device: torch.device | str, is_encoder_decoder: bool = False) -> Batch:
        """A micro-batch of these sizes; the last sequence is one token shorter than the others."""
        num_read = self.num_tokens - self.num_labels if is_encoder_decoder else self.num_tokens
        ids = torch.ones(self.num_sequences, num_read, dtype=torch.long, device=device)
        mask = torch.ones_like(ids)
        mask[-1, -1] = 0
        side = self.image_side
        num_stored = 0 if side else self.num_sequences
        pixels = torch.zeros(self.num_sequences, 3, side, side, device=device) if side else None
        labels = torch.ones(self.num_sequences, self.num_labels, dtype=torch.long, device=device)
        return Batch(
            input_ids=ids,
            attention_mask=mask,
            labels=labels
            if is_encoder_decoder
            else functional.pad(labels, (1, num_read - self.num_labels - 1), value=IGNORED),
            visual_features=torch.zeros(num_stored, self.num_rows, self.width, device=device),
            image_index=torch.arange(self.num_sequences),
            num_global_labels=self.num_sequences * self.num_labels,
            sample_ids=("",) * self.num_sequences,
            pixel_values=pixels,
            decoder_input_ids=labels if is_encoder_decoder else None,
        )


class InputSpaceModel(nn.Module):
    """A language model that reads its images as tokens before the text, through the same projector as a memory's."""

    def __init__(self, language_model: Any, config: MemVPConfig, tower: nn.Module | None = None) -> None:
        """`tower` is a live one; without it the model is given features."""
        super().__init__()
        self.vision_tower = tower
        embedding = language_model.get_input_embeddings().weight
        self.language_model = language_model
        widths = (config.vision_hidden_size, *config.projector_hidden_sizes, embedding.shape[1])
        activation = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}[config.projector_activation]
        layers: list[nn.Module] = []
        for wide, out in pairwise(widths):
            linear = nn.Linear(wide, out, bias=config.projector_bias, device=embedding.device, dtype=torch.float32)
            layers += [linear, activation()]
        self.projector = nn.Sequential(*layers[:-1])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        visual_features: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_index: Tensor,
        **kwargs: Any,
    ) -> Any:
        """The language model's output, its logits for the text alone (B, T, vocabulary)."""
        weight = next(self.projector.parameters())
        # Not `.to`: a traced step (trace.py) leaves an index where its values are.
        index = torch.empty_like(image_index, device=weight.device).copy_(image_index)
        features: Any = visual_features if self.vision_tower is None else self.vision_tower(pixel_values)
        rows = self.projector(features.to(weight.dtype)).index_select(0, index)
        text = self.language_model.get_input_embeddings()(input_ids)
        mask = functional.pad(attention_mask, (rows.shape[1], 0), value=1)
        output = self.language_model(
            inputs_embeds=torch.cat([rows.to(text.dtype), text], dim=1), attention_mask=mask, **kwargs
        )
        if not self.language_model.config.is_encoder_decoder:
            output.logits = output.logits[:, rows.shape[1] :]
        return output

    def gradient_checkpointing_enable(self) -> None:
        """Recompute layers in backward."""
        settings = {"use_reentrant": False}
        if hasattr(self.language_model, "activation_checkpointing_enable"):
            self.language_model.activation_checkpointing_enable(settings)
        else:
            self.language_model.gradient_checkpointing_enable(settings)


def build_way(
    way: Way,
    language_model: Any,
    *,
    memvp: dict[str, Any],
    lora: LoraSettings | None,
    vision: VisionConfig | None = None,
    meta: bool = False,
) -> nn.Module:
    """The model of a way, in training mode, on the language model, which it changes; what does not train is frozen.

    With `vision` the tower is live, and its adapters train too; `meta` builds it without memory for weights.
    """
    if way == "memory":
        model = build_memvp_model(language_model, memvp=memvp, lora=lora, init_adapter=None, vision=vision, meta=meta)
        return model.train()
    language_model.requires_grad_(way == "full")
    if way == "input space" and lora is not None:
        inject_lora(language_model, lora_config(lora, encoder_decoder=language_model.config.is_encoder_decoder))
    tower = None if vision is None else build_vision_tower(vision, meta=meta)
    return InputSpaceModel(language_model, MemVPConfig.from_dict(memvp), tower).train()
