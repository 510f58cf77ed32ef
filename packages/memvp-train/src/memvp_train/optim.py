"""The optimiser: AdamW over named groups, and the learning rate as a pure function of the step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from memvp_train.config import StageConfig

LORA_MARK = "lora_"


def learning_rate_factor(step: int, *, num_steps: int, warmup_fraction: float) -> float:
    """Share of the peak rate at optimiser step `step` (0 is the first): linear climb, then a cosine to zero.

    The climb takes w = ceil(warmup_fraction * num_steps) steps and its step k has (k + 1) / w. The cosine has
    (1 + cos(pi * (step - w) / (num_steps - w))) / 2, so the first step after the climb has the peak.
    """
    warmup = math.ceil(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def parameter_groups(trainable: Mapping[str, Tensor], *, stage: StageConfig) -> list[dict[str, Any]]:
    """AdamW groups: memory and LoRA by their own peak rate, matrices with weight decay, vectors without.

    Each group keeps its peak in "peak_learning_rate", which `set_learning_rates` multiplies. Groups are never empty
    and their order depends on names alone.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in trainable.items():
        # Under ZeRO-3 a parameter may already be split and look one-dimensional; ds_shape keeps its real shape.
        decays = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2 and stage.weight_decay > 0
        groups.setdefault((LORA_MARK in name, decays), []).append(parameter)
    return [
        _group(parameters, is_lora=is_lora, decays=decays, stage=stage)
        for (is_lora, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _group(parameters: list[Tensor], *, is_lora: bool, decays: bool, stage: StageConfig) -> dict[str, Any]:
    peak = (stage.lora_learning_rate or stage.learning_rate) if is_lora else stage.learning_rate
    return {
        "params": parameters,
        "lr": peak,
        "peak_learning_rate": peak,
        "weight_decay": stage.weight_decay if decays else 0.0,
    }


def build_optimizer(groups: list[dict[str, Any]], *, stage: StageConfig) -> torch.optim.AdamW:
    """torch's AdamW: DeepSpeed takes it as it is, so no fused kernel needs a compiler."""
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=stage.betas, weight_decay=0.0)


def set_learning_rates(groups: list[dict[str, Any]], *, factor: float) -> float:
    """Set every group to `factor` times its peak and return the rate of the first group."""
    for group in groups:
        group["lr"] = group["peak_learning_rate"] * factor
    return groups[0]["lr"]
