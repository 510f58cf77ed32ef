"""A language model in a training step, a prefill and a decoded token, on text alone; ways.py gives it images.

Random LLaMA-like weights, shared by all ways; no cost depends on what a model has learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from measuring import Call
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a language model, its text and its images."""

    hidden_size: int
    num_layers: int
    num_text: int = 64
    num_rows: int = 256
    num_slots: int = 320
    num_codes: int = 128
    vision_size: int = 1024
    vocab_size: int = 1000

    def language_model(self) -> Any:
        """A frozen LLaMA: FFN 8/3 times as wide, heads of 64, few words, so that the head weighs as in a deep model."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            hidden_size=self.hidden_size,
            intermediate_size=64 * round(self.hidden_size / 24),
            num_hidden_layers=self.num_layers,
            num_attention_heads=max(1, self.hidden_size // 64),
            vocab_size=self.vocab_size,
            eos_token_id=None,
            pad_token_id=0,
        )
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


class Way:
    """Text alone; the other ways change what goes in, or the model."""

    def __init__(self, model: Any, shape: Shape) -> None:
        self.shape = shape
        # Modules of its own for its own hooks, over the same weights.
        self.model = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
        self.trained: list[nn.Parameter] = []
        self.num_visual_tokens = 0
        # Whether the memory's dropout is on; set by the phase that was made last.
        self.is_training = False
        torch.manual_seed(1)

    def inputs(self, embeds: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Arguments of the model for embedded text (B, T, D) and image features (B, P, V)."""
        return {"inputs_embeds": embeds}

    def call(self, embeds: Tensor, features: Tensor, **kwargs: Any) -> Any:
        """The language model's output."""
        return self.model(**self.inputs(embeds, features), **kwargs)

    @contextmanager
    def decoding(self, features: Tensor) -> Iterator[None]:
        """What holds while tokens are decoded one by one, as inside `generate`."""
        yield

    def bytes_per_image(self, features: Tensor) -> int:
        """What decoding keeps for each image."""
        return 0

    def embedded(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, embedded text, features) of random samples."""
        ids = torch.randint(self.shape.vocab_size, (batch_size, self.shape.num_text))
        features = torch.randn(batch_size, self.shape.num_rows, self.shape.vision_size)
        return ids, self.model.get_input_embeddings()(ids), features

    def training_step(self, batch_size: int) -> Call:
        """Forward, backward and AdamW. The text's embeddings take gradients, as LoRA in the first layer would ask."""
        ids, embeds, features = self.embedded(batch_size)
        self.is_training = True
        optimizer = torch.optim.AdamW(self.trained) if self.trained else None

        def step() -> None:
            leaf = embeds.detach().requires_grad_()
            logits = self.call(leaf, features, use_cache=False, logits_to_keep=ids.shape[1]).logits
            functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        return step

    def prefill(self, batch_size: int) -> Call:
        """Text and image features in, the next token's logits and a cache out."""
        _, embeds, features = self.embedded(batch_size)
        self.is_training = False

        @torch.no_grad()
        def run() -> None:
            self.call(embeds, features, use_cache=True, logits_to_keep=1)

        return run

    def decode(self, batch_size: int) -> tuple[Call, int]:
        """One more token for a batch whose text has gone in, each sequence with its own image; and the bytes held."""
        ids, _, features = self.embedded(batch_size)
        cache = self._cache(batch_size)

        @torch.no_grad()
        def run() -> None:
            with self.decoding(features):
                self.model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
            cache.crop(-1)

        run()
        held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        # The cache has the visual tokens of input-space prompts in it.
        own = 0 if self.num_visual_tokens else batch_size * self.bytes_per_image(features)
        return run, held + own

    def generate(self, ids: Tensor, embeds: Tensor, features: Tensor, **kwargs: Any) -> Any:
        """The language model's own `generate`, from ids or from embedded inputs."""
        self.is_training = False
        with torch.no_grad():
            return self.model.generate(**self.inputs(embeds, features), **kwargs)

    def _cache(self, batch_size: int) -> Any:
        from transformers import DynamicCache

        config, cache = self.model.config, DynamicCache(config=self.model.config)
        num_tokens = self.shape.num_text + self.num_visual_tokens
        size = (batch_size, config.num_key_value_heads, num_tokens, config.head_dim)
        for layer in range(config.num_hidden_layers):
            cache.update(torch.randn(size), torch.randn(size), layer)
        return cache
