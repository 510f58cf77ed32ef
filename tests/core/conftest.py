"""Tiny models in float64, and the oracle: the base model's own FFNs with the memory rows written into their weights.

The shapes in memvp_core's annotations are checked while the tests run, except where a wrong argument is the caller's
mistake and has a sentence of its own (config.py, model.py, locate/, vision/).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook
from torch import nn

CHECKED = ["memory", "reference", "visual_memory"]

with install_import_hook([f"memvp_core.{name}" for name in CHECKED], "beartype.beartype"):
    from memvp_core import MemVPConfig, MemVPModel, get_memvp_model
    from tests.core.concatenated import make_concatenated
    from tests.core.tiny_models import VOCABULARY, make_tiny

FEATURE_WIDTH = 6


def make_model(base: Any = None, *, seed: int = 1, **settings: Any) -> MemVPModel:
    """A model whose memory has a strong say: scales near 1 and random values."""
    base = make_tiny() if base is None else base
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


def make_batch(*, batch: int = 4, tokens: int = 6, images: int = 3, rows: int = 4, seed: int = 2) -> tuple[Any, ...]:
    """Token ids (no special ones) and image features."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 1, (batch, tokens), generator=generator)
    return ids, torch.randn(images, rows, FEATURE_WIDTH, generator=generator, dtype=torch.float64)


@pytest.fixture
def llama() -> Callable[..., Any]:
    return make_tiny


@pytest.fixture
def memvp() -> Callable[..., MemVPModel]:
    return make_model


@pytest.fixture
def oracle() -> Callable[..., Any]:
    return make_concatenated


@pytest.fixture
def batch() -> Callable[..., tuple[Any, ...]]:
    return make_batch
