"""Training steps of T5 with its images in input space or in memory, for what a step holds."""

from __future__ import annotations

from typing import Any

import torch
from measuring import Call
from torch import nn

from memvp_core import MemVPConfig, get_memvp_model

WAYS = ("text only", "memory", "input space")
_SMALL = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16, "vocab_size": 100}
_BASE = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "d_kv": 64}
# CLIP RN101's 7 x 7 map as it is for memory; in input space pooled to 6 x 6, as the paper's baselines do.
_NUM_GRID, _NUM_POOLED, _VISION_SIZE, _NUM_SLOTS = 49, 36, 2048, 240
# Questions of VQAv2 have some 8 tokens, the longest of a batch of 64 twice as many; answers up to 4.
_NUM_TEXT, _NUM_TARGET = 16, 4


class Training:
    """One way to train: a T5 of its own, with dropout as T5 has it, fp32, AdamW on what the way trains."""

    def __init__(self, way: str, *, batch_size: int, is_small: bool) -> None:
        from transformers import T5Config, T5ForConditionalGeneration

        torch.manual_seed(0)
        self.model: Any = T5ForConditionalGeneration(
            T5Config(**_SMALL if is_small else _BASE, decoder_start_token_id=0)
        ).train()
        self.model.requires_grad_(False)
        width, words = self.model.config.d_model, self.model.config.vocab_size
        self.trained: list[nn.Parameter] = []
        self.projector = nn.Linear(_VISION_SIZE, width, bias=False)
        self.memvp = None
        if way == "memory":
            self.memvp = get_memvp_model(self.model, self.config())
            self.trained = [*self.memvp.prompt.parameters()]
        elif way == "input space":
            self.trained = [*self.projector.parameters()]
        self.ids = torch.randint(words, (batch_size, _NUM_TEXT))
        self.labels = torch.randint(words, (batch_size, _NUM_TARGET))
        self.features = torch.randn(batch_size, _NUM_GRID if self.memvp else _NUM_POOLED, _VISION_SIZE)

    @staticmethod
    def config() -> MemVPConfig:
        """The paper's for T5: one linear layer, positions for every layer of the encoder."""
        return MemVPConfig(
            vision_hidden_size=_VISION_SIZE,
            num_slots=_NUM_SLOTS,
            projector_hidden_sizes=(),
            projector_bias=False,
            share_position_embedding=False,
        )

    def step(self) -> Call:
        """Forward, backward and AdamW; the text's embeddings take gradients in every way."""
        optimizer = torch.optim.AdamW(self.trained) if self.trained else None

        def run() -> None:
            embeds = self.model.get_input_embeddings()(self.ids).requires_grad_()
            if self.memvp is not None:
                loss = self.memvp(inputs_embeds=embeds, labels=self.labels, visual_features=self.features).loss
            else:
                rows = [self.projector(self.features)] if self.trained else []
                loss = self.model(inputs_embeds=torch.cat([*rows, embeds], dim=1), labels=self.labels).loss
            loss.backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        return run

    @property
    def weight_bytes(self) -> int:
        """The language model's weights and what is trained."""
        kept = {id(weight): weight.nbytes for weight in (*self.model.parameters(), *self.trained)}
        return sum(kept.values())
