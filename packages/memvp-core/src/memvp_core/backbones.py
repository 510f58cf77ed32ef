"""Where the feed-forward networks sit in each architecture of transformers: one row of a table per model type."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from memvp_core.config import TargetStack

Stack = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class FFNPaths:
    """The FFNs of one stack of layers; * stands for the layer's number, the other paths start at `ffn`."""

    ffn: str
    """Path of the FFN, or of the layer where the FFN has no module of its own, from the list of layers on."""

    activation: str
    """Path of phi, the activation module."""

    first: str = ""
    """Path of the module whose input is the FFN's input x; "" is the FFN itself."""

    last: str = ""
    """Path of the module to whose output the retrieval is added."""

    batched: str | None = None
    """Where `first` is given all tokens as one row: the path of a module before it whose output has (batch, tokens)."""

    dense_activation: str | None = None
    """Path of phi in those layers of a mixture of experts that have one plain FFN instead."""


@dataclass(frozen=True)
class FFNSite:
    """One FFN of a model, by the full paths of its parts; the table yields these, and they can be written by hand."""

    layer: int
    """Its layer number, for `layers_to_transform`."""

    first: str
    """Module whose first argument is the FFN's input x, (batch, tokens, width)."""

    last: str
    """Module to whose output the retrieval is added; `first` where the FFN is one module."""

    activation: str
    """Module that computes phi."""

    batched: str | None = None
    """Module whose output has the shape (batch, tokens, width), where x comes flattened."""


_MLP = FFNPaths("layers.*.mlp", activation="act_fn")
_BART = FFNPaths("layers.*", activation="activation_fn", first="fc1", last="fc2")
_EXPERTS = FFNPaths("layers.*.mlp", activation="experts.act_fn", dense_activation="act_fn")

BACKBONES: dict[str, dict[Stack, FFNPaths]] = {
    "llama": {"decoder": _MLP},
    "bart": {"encoder": _BART, "decoder": _BART},
    # T5 v1.1 and Flan, which gate their FFNs, are of this type too.
    "t5": {
        "encoder": FFNPaths("block.*.layer.1.DenseReluDense", activation="act"),
        "decoder": FFNPaths("block.*.layer.2.DenseReluDense", activation="act"),
    },
    "qwen3": {"decoder": _MLP},
    "gemma3_text": {"decoder": _MLP},
    # One retrieval beside the whole block of experts, not one per expert.
    "mixtral": {"decoder": _EXPERTS},
    "qwen3_moe": {"decoder": _EXPERTS},
    # From c_fc to c_proj, so that the retrieval is inside the FFN's own dropout, as concatenated rows would be.
    "gpt2": {"decoder": FFNPaths("h.*.mlp", activation="act", first="c_fc", last="c_proj")},
    "mistral": {"decoder": _MLP},
    "qwen2": {"decoder": _MLP},
    "phi3": {"decoder": FFNPaths("layers.*.mlp", activation="activation_fn")},
    "opt": {
        "decoder": FFNPaths("layers.*", activation="activation_fn", first="fc1", last="fc2", batched="self_attn"),
    },
    "gpt_neox": {"decoder": FFNPaths("layers.*.mlp", activation="act")},
    # Vision towers, for adapters in them.
    "clip_vision_model": {"encoder": FFNPaths("layers.*.mlp", activation="activation_fn")},
    "siglip_vision_model": {"encoder": FFNPaths("layers.*.mlp", activation="activation_fn")},
    "dinov2": {"encoder": FFNPaths("layer.*.mlp", activation="activation")},
    "dinov2_with_registers": {"encoder": FFNPaths("layer.*.mlp", activation="activation")},
}

_ACTIVATION_NAME = re.compile(r"act|gelu|relu|silu", re.IGNORECASE)
_FFN_NAME = re.compile(r"mlp|ffn|feed_forward|ff|fc1|densereludense|moe|block_sparse_moe", re.IGNORECASE)


def find_sites(model: nn.Module, *, target: TargetStack = "auto") -> list[FFNSite]:
    """The FFNs of a model of the table, encoder first; inside a PEFT wrapper or a vision-language model too.

    Raises:
        ValueError: no row of the table, or none for this stack; it lists what looks like an FFN and the row to add.
    """
    model_type = text_config(model).model_type
    stacks = BACKBONES.get(model_type)
    if stacks is None:
        raise ValueError(_unknown(model, model_type))
    sites = [site for stack in _chosen(stacks, target, model_type) for site in _sites(model, stack, stacks)]
    if not sites:
        raise ValueError(f"no FFN at {_patterns(stacks)} in this {model_type} model; found: {_look_alikes(model)}.")
    return sites


def text_config(model: nn.Module) -> Any:
    """The settings of a model's language part."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "model_type"):
        raise ValueError(f"expected a model of transformers, with a config; got {type(model).__name__}.")
    return getattr(config, "text_config", None) or config


def choose_layers(sites: Sequence[FFNSite], *, layers: tuple[int, ...] | None) -> list[FFNSite]:
    """The sites of some layers, in layer order; None is all."""
    if layers is None:
        return list(sites)
    missing = sorted(set(layers) - {site.layer for site in sites})
    if missing:
        raise ValueError(f"layers_to_transform names {missing}, but the model's layers are 0 to {sites[-1].layer}.")
    return [site for site in sites if site.layer in layers]


def _chosen(stacks: dict[Stack, FFNPaths], target: TargetStack, model_type: str) -> tuple[Stack, ...]:
    if target == "both":
        return tuple(stacks)
    if target == "auto":
        return (next(iter(stacks)),)
    if target not in stacks:
        raise ValueError(f"target_stack is {target!r}, but a {model_type} model has only: {', '.join(stacks)}.")
    return (target,)


def _sites(model: nn.Module, stack: Stack, stacks: dict[Stack, FFNPaths]) -> list[FFNSite]:
    paths = stacks[stack]
    # Both stacks of an encoder-decoder have lists of one name, so there its own name belongs to the path.
    inside = rf"(?:.*\.)?{stack}\." if len(stacks) > 1 else r"(?:.*\.)?"
    pattern = re.compile(inside + re.escape(paths.ffn).replace(r"\*", r"(\d+)"))
    prefix = language_prefix(model)
    found = [(pattern.fullmatch(path.removeprefix(prefix)), path) for path in _module_paths(model, prefix=prefix)]
    modules = _named_modules(model)
    return [_site(paths, path=path, layer=int(match.group(1)), modules=modules) for match, path in found if match]


def _site(paths: FFNPaths, *, path: str, layer: int, modules: Mapping[str, nn.Module]) -> FFNSite:
    def at(part: str) -> str:
        return f"{path}.{part}" if part else path

    activation = at(paths.activation)
    if paths.dense_activation is not None and activation not in modules:
        activation = at(paths.dense_activation)
    batched = None if paths.batched is None else at(paths.batched)
    return FFNSite(layer, at(paths.first), at(paths.last), activation, batched)


def language_prefix(model: nn.Module) -> str:
    """Where the language model lies inside a larger one; its vision tower has layers of the same names."""
    config, text = getattr(model, "config", None), text_config(model)
    if text is config:
        return ""
    for path, module in _named_modules(model).items():
        own: Any = getattr(module, "config", None)
        if getattr(own, "model_type", None) == text.model_type:
            return f"{path}."
    return ""


def _unknown(model: nn.Module, model_type: str) -> str:
    rows = _rows(model)
    stacks = (
        ("encoder", "decoder") if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else ("decoder",)
    )
    row = rows[0] if rows else 'FFNPaths("layers.*.mlp", activation="act_fn")'
    return (
        f"no FFN is known for model type {model_type!r}; known are {', '.join(BACKBONES)}; modules that look like "
        f"FFNs here: {', '.join(_look_alikes(model)) or 'none'}. Add a row such as BACKBONES[{model_type!r}] = "
        f"{{{', '.join(f'{stack!r}: {row}' for stack in stacks)}}}, or pass sites=[FFNSite(...), ...]."
    )


def _rows(model: nn.Module) -> list[str]:
    """The row of the table for each module that looks like an FFN and has an activation to be found."""
    modules, rows = _named_modules(model), list[str]()
    for pattern in _look_alikes(model):
        path = next(path for path in modules if re.sub(r"\.\d+\.", ".*.", path) == pattern)
        # BART's kind: two matrices of the layer itself.
        is_matrix = pattern.endswith(".fc1")
        parts = ', first="fc1", last="fc2"' if is_matrix else ""
        owner, ffn = (path.removesuffix(".fc1"), pattern.removesuffix(".fc1")) if is_matrix else (path, pattern)
        activation = _activation_in(modules[owner])
        if activation is not None:
            rows.append(f"FFNPaths({_from_list_on(ffn)!r}, activation={activation!r}{parts})")
    return rows


def _activation_in(ffn: nn.Module) -> str | None:
    """Name of the activation among a module's own parts."""
    parts = [name for name, part in ffn.named_children() if not any(True for _ in part.parameters())]
    return next((name for name in parts if _ACTIVATION_NAME.search(name)), None)


def _from_list_on(pattern: str) -> str:
    """ "model.decoder.layers.*.mlp" -> "layers.*.mlp": what comes before the list of layers differs between classes."""
    before, star, rest = pattern.partition(".*")
    return f"{before.rsplit('.', 1)[-1]}{star}{rest}"


def _patterns(stacks: dict[Stack, FFNPaths]) -> str:
    return " or ".join(repr(paths.ffn) for paths in stacks.values())


def _look_alikes(model: nn.Module) -> list[str]:
    names = [path for path in _named_modules(model) if _FFN_NAME.fullmatch(path.rsplit(".", 1)[-1])]
    return sorted({re.sub(r"\.\d+\.", ".*.", path) for path in names})[:8]


def _module_paths(model: nn.Module, *, prefix: str) -> list[str]:
    return [path for path in _named_modules(model) if path.startswith(prefix)]


def _named_modules(model: nn.Module) -> dict[str, nn.Module]:
    # torch leaves the items partly untyped.
    untyped: Any = model
    return dict(untyped.named_modules())
