"""The optimiser: AdamW over named groups, each with its own peak rate and decay."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from memvp_train.config import ConfigError, GroupSettings, StageConfig

# Beginnings of names in MemVPModel, but for a LoRA, which may hang anywhere in the language model.
_BEGINNINGS = {
    "vision_tower.": "tower",
    "prompt.projector.": "projector",
    "prompt.visual_scale": "scales",
    "prompt.retrieval_": "scales",
    "prompt.": "positions",
}
_LORA_MARK = "lora_"


def group_of(name: str) -> str:
    """The group (a field of ParameterGroups) of a trained parameter of MemVPModel, by its name."""
    for beginning, group in _BEGINNINGS.items():
        if name.startswith(beginning):
            return group
    return "lora" if _LORA_MARK in name else "norms"


def check_groups(names: Iterable[str], *, stage: StageConfig) -> None:
    """Refuse settings for a group that has no parameters: they would have no effect."""
    found = {group_of(name) for name in names}
    for group in stage.groups.named():
        if group not in found:
            raise ConfigError(
                f"groups.{group} is set but nothing of that kind trains in this stage (what trains: "
                f"{', '.join(sorted(found))}); remove it, or switch on what it is for"
            )


def parameter_groups(trainable: Mapping[str, Tensor], *, stage: StageConfig) -> list[dict[str, Any]]:
    """AdamW groups: each kind of parameter by its own peak rate, matrices with weight decay, vectors without.

    Each group keeps its peak in "peak_learning_rate", which `set_learning_rates` multiplies. Groups are never empty;
    those at the stage's own rate come first, and their order depends on names and settings alone.
    """
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    for name, parameter in trainable.items():
        own = getattr(stage.groups, group_of(name)) or GroupSettings()
        peak = stage.learning_rate if own.learning_rate is None else own.learning_rate
        decay = stage.weight_decay if own.weight_decay is None else own.weight_decay
        # Under ZeRO-3 a parameter may already be split and look one-dimensional; ds_shape keeps its real shape.
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
        key = (peak != stage.learning_rate, peak, decay if is_matrix else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": peak, "peak_learning_rate": peak, "weight_decay": decay}
        for (_, peak, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(groups: list[dict[str, Any]], *, stage: StageConfig) -> torch.optim.AdamW:
    """torch's AdamW: DeepSpeed takes it as it is, so no fused kernel needs a compiler."""
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=stage.betas, eps=stage.eps, weight_decay=0.0)


def set_learning_rates(groups: list[dict[str, Any]], *, factor: float) -> float:
    """Set every group to `factor` times its peak and return the rate of the first group."""
    for group in groups:
        group["lr"] = group["peak_learning_rate"] * factor
    return groups[0]["lr"]
