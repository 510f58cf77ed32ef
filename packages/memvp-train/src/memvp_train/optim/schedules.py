"""The learning rate as a pure function of the step: a climb, then a cosine, a line or the peak to the end."""

import math
from dataclasses import dataclass
from typing import Literal

from memvp_train.config.stage import StageConfig

_DEFAULT_WARMUP = 0.03
# The released LLaMA scripts give 9e-3 as a rate for a batch of 256 (arXiv 2405.05615) and scale it themselves.
_PAPER_BASE_RATE, _PAPER_BASE_BATCH = 9e-3, 256


@dataclass(frozen=True)
class Schedule:
    """The rate of every step of a stage, as shares of the peak."""

    num_steps: int
    """Optimiser steps of the stage."""
    warmup: int
    """Steps of the climb."""
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """What follows it."""

    def factor(self, step: int) -> float:
        """Share of the peak rate at optimiser step `step` (0 is the first).

        Step k of a climb of w steps has (k + 1) / w, so no step is without a rate. With x = (step - w) / (steps - w)
        a cosine then has (1 + cos(pi * x)) / 2 and a line 1 - x: the first step after the climb has the peak, and
        zero would come after the last.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.num_steps - self.warmup)
        return {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}[self.kind]


def warmup_steps(stage: StageConfig, *, num_steps: int, num_samples: int) -> int:
    """Steps of the climb, rounded up; an epoch is `num_samples` samples."""
    if stage.warmup_steps is not None:
        return stage.warmup_steps
    if stage.warmup_epochs is not None:
        return math.ceil(stage.warmup_epochs * num_samples / stage.global_batch_size)
    fraction = _DEFAULT_WARMUP if stage.warmup_fraction is None else stage.warmup_fraction
    return math.ceil(fraction * num_steps)


def base_rate_warning(stage: StageConfig) -> str | None:
    """A sentence where a rate looks like the paper's base rate, which has to be scaled by batch / 256 first."""
    is_base = math.isclose(stage.learning_rate, _PAPER_BASE_RATE) and stage.global_batch_size != _PAPER_BASE_BATCH
    if not is_base:
        return None
    peak = stage.learning_rate * stage.global_batch_size / _PAPER_BASE_BATCH
    return (
        f"learning_rate {stage.learning_rate} is the peak itself here, while the paper's 9e-3 is a base rate for a "
        f"batch of {_PAPER_BASE_BATCH}: its peak for your batch of {stage.global_batch_size} would be {peak:.4g}"
    )
