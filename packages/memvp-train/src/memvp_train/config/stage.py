"""Settings of one stage of tuning: how long, in which batches, at which rates, and how it is watched."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from memvp_train.config.errors import require
from memvp_train.config.models import LoraSettings


@dataclass(frozen=True)
class GroupSettings:
    """What a group of parameters has of its own; none takes the stage's."""

    learning_rate: float | None = None
    """Peak rate."""
    weight_decay: float | None = None
    """AdamW's decay, on matrices only."""

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        require(rate is None or rate > 0, message=f"learning_rate of a group must be above 0, got {rate}")
        require(decay is None or decay >= 0, message=f"weight_decay of a group must not be negative, got {decay}")


@dataclass(frozen=True)
class ParameterGroups:
    """Groups of trained parameters with a rate and a decay of their own; optim/optimizer.py says what is in which."""

    projector: GroupSettings | None = None
    """From image features to the width of the language model."""
    positions: GroupSettings | None = None
    """Position rows of keys and values, and what marks which image a row shows."""
    scales: GroupSettings | None = None
    """The two scales of the memory, where they are learned."""
    lora: GroupSettings | None = None
    """LoRA on the language model."""
    norms: GroupSettings | None = None
    """The language model's norms, where they train."""
    tower: GroupSettings | None = None
    """Adapters in the vision tower."""

    def named(self) -> dict[str, GroupSettings]:
        """The groups that are set."""
        groups = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: group for name, group in groups.items() if group is not None}


@dataclass(frozen=True)
class ValidationConfig:
    """Evaluation during training, on the table that the run names beside its samples."""

    every: int = 100
    """Steps between two evaluations; the last step always has one."""
    metric: Literal["loss", "accuracy"] = "loss"
    """What decides which step is best: the lowest mean loss per label token, or the highest share of right samples."""
    patience: int | None = None
    """Evaluations in a row without a new best after which training stops; none trains to the end."""
    keep_best: bool = True
    """The adapter is that of the best step; false: of the last."""

    def __post_init__(self) -> None:
        require(self.every >= 1, message=f"validation.every must be at least 1 step, got {self.every}")
        require(
            self.patience is None or self.patience >= 1,
            message=f"validation.patience must be at least 1 evaluation, got {self.patience}; leave it out for none",
        )


@dataclass(frozen=True)
class StageConfig:
    """One stage of tuning. Exactly one of `num_steps` and `num_epochs` is set."""

    num_steps: int | None = None
    """Optimiser steps."""
    num_epochs: float | None = None
    """Passes over the samples; rounded up to whole steps."""
    global_batch_size: int = 32
    """Samples per optimiser step over all workers."""
    micro_batch_size: int = 16
    """Samples (rows, when packed) per forward pass of one worker; the rest of the global batch is accumulated."""
    questions_per_image: int = 0
    """Questions of an image that stay together in a batch; 0 shuffles them all."""
    token_budget: int | None = None
    """Most tokens of a forward pass, padding included: fewer rows where they are long."""
    packed_tokens: int | None = None
    """Put several samples into a row of this many tokens; attention stays within each."""
    mean_over: Literal["tokens", "samples"] = "tokens"
    """What the loss is a mean over: all label tokens alike, or all samples alike, however long their answers."""
    learning_rate: float = 5e-3
    """Peak rate, absolute: it is not scaled by the batch size."""
    weight_decay: float = 0.0
    """AdamW's decay, on matrices only."""
    groups: ParameterGroups = field(default_factory=ParameterGroups)
    """Rates and decays of single groups of parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's running averages."""
    eps: float = 1e-8
    """AdamW's guard against a division by zero."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What follows the climb of the rate: to zero along a half cosine or a line, or the peak to the end."""
    warmup_fraction: float | None = None
    """Share of the steps in which the rate climbs; 0.03 if no warm-up is given."""
    warmup_steps: int | None = None
    """The same in steps."""
    warmup_epochs: float | None = None
    """The same in passes over the samples."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    template: str = "plain"
    """Name of a template in memvp_data.text."""
    max_length: int = 512
    """Tokens kept of a sample."""
    seed: int = 0
    """Seed of initial weights, sample order and dropout."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always has one."""
    log_every: int = 10
    """Steps between writes of the metrics; every step has its line."""
    lora: LoraSettings | None = None
    """LoRA on the language model, trained from zero in this stage."""
    validation: ValidationConfig | None = None
    """Evaluation during training; none: only the training loss is watched."""
    gradient_checkpointing: bool = False
    """Recompute activations in backward to save memory."""
    compile: bool = False
    """Let torch.compile translate the language model; the first steps take minutes."""

    def __post_init__(self) -> None:
        require(
            (self.num_steps is None) != (self.num_epochs is None),
            message=f"exactly one of num_steps and num_epochs must be set, got {self.num_steps} and {self.num_epochs}",
        )
        self._check_signs()
        self._check_micro_batch()
        self._check_warmup()
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            message=f"betas must be two numbers in [0, 1), got {self.betas}",
        )
        require(
            self.groups.lora is None or self.lora is not None,
            message="groups.lora is set but lora is not; add lora or remove groups.lora",
        )

    def _check_signs(self) -> None:
        sizes = ("num_steps", "num_epochs", "global_batch_size", "micro_batch_size", "token_budget", "packed_tokens")
        for name in (*sizes, "learning_rate", "eps", "max_length", "checkpoint_every", "log_every"):
            value = getattr(self, name)
            require(value is None or value > 0, message=f"{name} must be above 0, got {value}")
        for name in ("weight_decay", "max_grad_norm", "questions_per_image", "warmup_steps", "warmup_epochs"):
            value = getattr(self, name)
            require(value is None or value >= 0, message=f"{name} must not be negative, got {value}")

    def _check_micro_batch(self) -> None:
        is_cut_by_rows = self.token_budget is None and self.packed_tokens is None
        require(
            self.micro_batch_size <= self.global_batch_size or not is_cut_by_rows,
            message=f"micro_batch_size {self.micro_batch_size} is above global_batch_size {self.global_batch_size}, of "
            f"which it is a part; take {self.global_batch_size} or less",
        )

    def _check_warmup(self) -> None:
        names = ("warmup_fraction", "warmup_steps", "warmup_epochs")
        given = [name for name in names if getattr(self, name) is not None]
        require(len(given) <= 1, message=f"only one of {' and '.join(given)} can be set; remove the others")
        require(
            self.warmup_fraction is None or 0 <= self.warmup_fraction < 1,
            message=f"warmup_fraction must be in [0, 1), got {self.warmup_fraction}",
        )

    def steps_for(self, *, num_samples: int) -> int:
        """Optimiser steps of the stage over `num_samples` samples."""
        if self.num_steps is not None:
            return self.num_steps
        return max(1, math.ceil((self.num_epochs or 0) * num_samples / self.global_batch_size))
