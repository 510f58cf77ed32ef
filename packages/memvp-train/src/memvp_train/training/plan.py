"""What the driver gives every worker: typed on both sides, plain JSON values where it crosses to another process."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from memvp_train.config import LaunchConfig, StageRun, from_plain
from memvp_train.training.token_cache import EncodedCounts


@dataclass(frozen=True)
class WorkerPlan:
    """A stage that has passed every check, ready to be trained."""

    run: StageRun
    """The stage, all paths absolute."""
    launch: LaunchConfig
    """Where and how the workers run."""
    settings: dict[str, Any]
    """What decides the result; a checkpoint of other settings is refused."""
    counts: EncodedCounts
    """Samples to train on."""
    samples_key: str
    """Names the table of tokens to train on."""
    validation_key: str | None
    """Names that of the validation samples; none trains without."""
    decoder_start_token_id: int | None
    """What an encoder-decoder's answers begin with."""
    num_steps: int
    """Optimiser steps."""
    num_warmup_steps: int
    """Those of the climb to the peak rate."""

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_plain`, also after a trip through JSON."""
        return from_plain(cls, values)
