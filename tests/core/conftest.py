"""Tiny models in float64, and the oracle: the base model's own FFNs with the memory rows written into their weights.

The shapes in memvp_core's annotations are checked while the tests run, except where a wrong argument is the caller's
mistake and has a sentence of its own (config.py, model.py, locate.py, vision.py).
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor, nn
from torch.func import functional_call

CHECKED = ["arrange", "memory", "precision", "prompt", "reading", "reference", "visual_memory"]

with install_import_hook([f"memvp_core.{name}" for name in CHECKED], "beartype.beartype"):
    from memvp_core import MemVPConfig, MemVPModel, get_memvp_model
    from memvp_core.reference import concatenated_weights, memory_rows

VOCABULARY = 40
FEATURE_WIDTH = 6


def make_llama(*, seed: int = 0, num_layers: int = 2, hidden_size: int = 16, **settings: Any) -> Any:
    """A random LLaMA; weights large enough for the FFNs to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=24,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
        **settings,
    )
    return LlamaForCausalLM(config).double().eval()


def make_model(base: Any = None, *, seed: int = 1, **settings: Any) -> MemVPModel:
    """A model whose memory has a strong say: scales near 1 and random values."""
    base = make_llama() if base is None else base
    torch.manual_seed(seed)
    defaults = {
        "vision_hidden_size": FEATURE_WIDTH,
        "num_slots": 5,
        "visual_scale": 2,
        "retrieval_scale": 0.9,
        "projector_hidden_sizes": (7,),
        "memory_dropout": 0.0,
    }
    model = get_memvp_model(base, MemVPConfig(**defaults | settings)).eval()
    for name, parameter in model.prompt.named_parameters():
        if not name.endswith("_scale"):
            nn.init.normal_(parameter, std=0.5)
    return model


def make_oracle(model: MemVPModel, features: Tensor | None) -> Any:
    """A copy of the base model that has one image (or none) in the weights of its FFNs; trains what `model` trains."""
    oracle = copy.deepcopy(model)
    projected = None if features is None else oracle.prompt.project(features[None])[0]
    config, prompt = model.memvp_config, oracle.prompt
    visual_scale = prompt.visual_scale if config.learn_scales else config.visual_scale
    retrieval_scale = prompt.retrieval_scale if config.learn_scales else config.retrieval_scale
    base = oracle.unload()
    base.requires_grad_(False)
    for number, site in enumerate(model.injection.sites):
        keys, values = (
            memory_rows(
                projected,
                positions=positions if positions.ndim == 2 else positions[number],
                visual_scale=visual_scale,
            )
            for positions in (prompt.key_positions, prompt.value_positions)
        )
        parent, _, name = site.path.rpartition(".")
        ffn = ConcatenatedFfn(base.get_submodule(site.path), keys=keys, values=values, scale=retrieval_scale)
        setattr(base.get_submodule(parent), name, ffn)
    base.prompt_of_oracle = prompt
    return base


class ConcatenatedFfn(nn.Module):
    """Eq. 11 taken at its word: a wider FFN of the same class, with the rows appended to its Linear weights."""

    def __init__(self, ffn: Any, *, keys: Tensor, values: Tensor, scale: float | Tensor) -> None:
        super().__init__()
        config = copy.deepcopy(ffn.config)
        config.intermediate_size += keys.shape[0]
        self.ffn, self.wide = ffn, type(ffn)(config).double()
        self.wide.requires_grad_(False)
        self.keys, self.values, self.scale = keys, values, scale

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._one_token(token) for token in x.reshape(-1, x.shape[-1])]
        return torch.stack(outputs).view_as(x)

    def _one_token(self, x: Tensor) -> Tensor:
        w1, w2, w3 = concatenated_weights(
            x,
            w1=self.ffn.gate_proj.weight,
            w2=self.ffn.down_proj.weight.T,
            w3=self.ffn.up_proj.weight,
            keys=self.keys,
            values=self.values,
            retrieval_scale=self.scale,
        )
        weights = {"gate_proj.weight": w1, "down_proj.weight": w2.T, "up_proj.weight": w3}
        return functional_call(self.wide, weights, (x,))


def make_batch(*, batch: int = 4, tokens: int = 6, images: int = 3, rows: int = 4, seed: int = 2) -> tuple[Any, ...]:
    """Token ids (no special ones) and image features."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (batch, tokens), generator=generator)
    return ids, torch.randn(images, rows, FEATURE_WIDTH, generator=generator, dtype=torch.float64)


@pytest.fixture
def llama() -> Callable[..., Any]:
    return make_llama


@pytest.fixture
def memvp() -> Callable[..., MemVPModel]:
    return make_model


@pytest.fixture
def oracle() -> Callable[..., Any]:
    return make_oracle


@pytest.fixture
def batch() -> Callable[..., tuple[Any, ...]]:
    return make_batch
