"""Where the feed-forward network sits in each architecture: one row of a table per model type of transformers."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Backbone:
    """The FFN modules of one architecture."""

    ffn: str
    """Path of the FFN below the language model; * stands for the layer number."""

    activation: str
    """Attribute of the FFN that holds its activation."""

    weights: tuple[str, str, str]
    """Names of W1, W2 and W3 of the paper inside the FFN: gate, down and up projection."""


@dataclass(frozen=True)
class FfnSite:
    """One FFN found in a model."""

    layer: int
    """Its layer number."""

    path: str
    """Its name below the model."""

    module: nn.Module
    """The FFN itself."""


_LLAMA = Backbone(ffn="model.layers.*.mlp", activation="act_fn", weights=("gate_proj", "down_proj", "up_proj"))

BACKBONES: dict[str, Backbone] = {"llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA}

_FFN_NAMES = re.compile(r"mlp|ffn|feed_forward|ff|fc1|densereludense|moe|block_sparse_moe", re.IGNORECASE)


def find_ffns(model: nn.Module, *, model_type: str) -> tuple[Backbone, list[FfnSite]]:
    """The table's row for a model type and the FFNs it names, by layer; a PEFT wrapper around the model is fine."""
    backbone = BACKBONES.get(model_type)
    if backbone is None:
        raise ValueError(
            f"no FFN is known for model type {model_type!r}; known are {', '.join(BACKBONES)}; modules that look "
            f"like FFNs here: {_ffn_like_paths(model)}."
        )
    pattern = re.compile(r"(?:.*\.)?" + re.escape(backbone.ffn).replace(r"\*", r"(\d+)"))
    sites: list[FfnSite] = []
    for path, module in _named_modules(model).items():
        match = pattern.fullmatch(path)
        if match and hasattr(module, backbone.activation):
            sites.append(FfnSite(int(match.group(1)), path, module))
    if not sites:
        raise ValueError(f"no FFN at {backbone.ffn!r} in this {model_type} model; found: {_ffn_like_paths(model)}.")
    return backbone, sorted(sites, key=lambda site: site.layer)


def choose_layers(sites: list[FfnSite], *, layers: tuple[int, ...] | None) -> list[FfnSite]:
    """The sites of some layers, in layer order; None is all."""
    if layers is None:
        return sites
    missing = sorted(set(layers) - {site.layer for site in sites})
    if missing:
        raise ValueError(f"layers_to_transform names {missing}, but the model's layers are 0 to {sites[-1].layer}.")
    return [site for site in sites if site.layer in layers]


def _ffn_like_paths(model: nn.Module) -> str:
    paths = {re.sub(r"\.\d+\.", ".*.", path) for path in _named_modules(model) if _looks_like_ffn(path)}
    return ", ".join(sorted(paths)[:8]) or "none"


def _looks_like_ffn(path: str) -> bool:
    return _FFN_NAMES.fullmatch(path.rsplit(".", 1)[-1]) is not None


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    # torch leaves the items partly untyped.
    untyped: Any = model
    return dict(untyped.named_modules())
