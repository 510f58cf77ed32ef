"""The dynamic loss scale of fp16: the loss is enlarged before backward so that small gradients do not vanish.

After an overflow the scale is halved and the step left out; after many steps without one it is doubled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

START, LOWEST, GROWTH_INTERVAL = 2.0**16, 1.0, 1000
# The state as numbers of a checkpoint.
SCALE, GOOD_STEPS, SKIPPED = "loss_scale", "steps_since_overflow", "skipped_steps"


class OverflowingError(ValueError):
    """Gradients overflow whatever the scale."""


def hopeless(scale: float) -> str:
    """The sentence for whoever waits for a finite gradient."""
    return f"gradients are not finite in fp16 even at loss scale {scale:g}; try bf16, or a lower learning rate"


@dataclass
class LossScale:
    """The scale between two steps. Without fp16 it stays 1 and nothing is left out."""

    is_dynamic: bool
    value: float = 1.0
    good_steps: int = 0
    skipped: int = 0

    @classmethod
    def for_dtype(cls, dtype: torch.dtype) -> "LossScale":
        """That of a fresh run."""
        is_dynamic = dtype == torch.float16
        return cls(is_dynamic, START if is_dynamic else 1.0)

    def accepts(self, norm: float) -> bool:
        """Whether a step with this gradient norm may be made; moves the scale for the next one.

        Raises `OverflowingError` when the scale cannot be lowered any further.
        """
        if not self.is_dynamic:
            return True
        if math.isfinite(norm):
            self.good_steps += 1
            self.value *= 2 if self.good_steps % GROWTH_INTERVAL == 0 else 1
            return True
        if self.value <= LOWEST:
            raise OverflowingError(hopeless(self.value))
        self.value, self.good_steps, self.skipped = self.value / 2, 0, self.skipped + 1
        return False

    def numbers(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        if not self.is_dynamic:
            return {}
        return {SCALE: self.value, GOOD_STEPS: self.good_steps, SKIPPED: self.skipped}

    def restore(self, numbers: Mapping[str, float]) -> None:
        """Go on from the numbers of a checkpoint."""
        if self.is_dynamic:
            self.value = numbers[SCALE]
            self.good_steps, self.skipped = int(numbers[GOOD_STEPS]), int(numbers[SKIPPED])
