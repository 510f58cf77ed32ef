"""Visual tokens as a tuning method: projected image rows stand before the text, as in LLaVA."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from memvp_core import MemVPConfig


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
        # Not `.to`: a traced step (cost_model/trace.py) leaves an index where its values are.
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
