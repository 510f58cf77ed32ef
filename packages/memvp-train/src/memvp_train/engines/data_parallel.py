"""Plain data parallelism, `zero_stage: 0`: every rank holds all, and gradients are summed in one message per step.

What trains is small beside the frozen model, so this is the fastest engine wherever a whole model fits a device. It
needs a process group that is already initialised, and no DeepSpeed.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memvp_train.checkpoints.state import TrainingState
from memvp_train.config import StageConfig
from memvp_train.engines.local import LocalEngine


class DataParallelEngine(LocalEngine):
    """One rank of several that do the same with different micro-batches."""

    def __init__(
        self,
        model: nn.Module,
        *,
        trainable: Mapping[str, Tensor],
        stage: StageConfig,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
        state: TrainingState | None = None,
    ) -> None:
        super().__init__(model, trainable=trainable, stage=stage, precision=precision, device=device, state=state)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def _sum_gradients(self) -> None:
        gradients = [master.grad for master in self._masters.values() if master.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, total in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total
