"""What a training loop needs of an engine, and the plain-torch engine: one process, no DeepSpeed.

It is the reference that the DeepSpeed engine is tested against, and what trains when `num_workers` is 0.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from memvp_train.checkpoints.state import TrainingState
from memvp_train.config import StageConfig
from memvp_train.optim.loss_scale import LossScale
from memvp_train.optim.optimizer import build_optimizer, parameter_groups

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(Protocol):
    """The few verbs of training; every rank calls them in the same order."""

    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    model: nn.Module
    groups: list[dict[str, Any]]

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of this rank's share of the global loss; `is_last` with the step's last micro-batch."""
        ...

    def step(self) -> float:
        """Sum gradients over ranks, clip, update, clear; returns the norm before clipping.

        It is 0.0 for a step that was left out because its fp16 gradients overflowed.
        """
        ...

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks, on every rank."""
        ...

    def gather(self, *, step: int) -> TrainingState:
        """Weights and Adam moments in fp32, whole, on the CPU."""
        ...


class LocalEngine:
    """One process, plain torch. 16-bit weights are copies of fp32 masters that train, as in DeepSpeed."""

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
        self.rank, self.world_size = 0, 1
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.model = model.to(device=self.device, dtype=self.dtype)
        self._parameters = dict(trainable)
        self._masters = {name: self._master(parameter) for name, parameter in self._parameters.items()}
        self._loss_scale = LossScale.for_dtype(self.dtype)
        self._max_grad_norm = stage.max_grad_norm
        self._optimizer = build_optimizer(parameter_groups(self._masters, stage=stage), stage=stage)
        self.groups = self._optimizer.param_groups
        if state is not None:
            self._restore(state)

    def _master(self, parameter: Tensor) -> Tensor:
        return parameter if self.dtype == torch.float32 else nn.Parameter(parameter.detach().float())

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        (loss * self._loss_scale.value).backward()

    def step(self) -> float:
        for name, parameter in self._parameters.items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self._masters[name].grad = gradient.float() / self._loss_scale.value
        self._sum_gradients()
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters.values(), self._max_grad_norm or float("inf")))
        is_accepted = self._loss_scale.accepts(norm)
        if is_accepted:
            self._optimizer.step()
        self._publish()
        return norm if is_accepted else 0.0

    def _sum_gradients(self) -> None:
        """Over ranks; here there is one."""

    def _publish(self) -> None:
        """Round the master copies into the model and clear the gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        for name, parameter in self._parameters.items():
            parameter.grad = None
            if self._masters[name] is not parameter:
                parameter.data.copy_(self._masters[name].data)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        return values

    def gather(self, *, step: int) -> TrainingState:
        return TrainingState(
            step=step,
            weights={name: master.detach().cpu().clone() for name, master in self._masters.items()},
            exp_avg=self._moments("exp_avg"),
            exp_avg_sq=self._moments("exp_avg_sq"),
            numbers=self._loss_scale.numbers(),
        )

    def _moments(self, key: str) -> dict[str, Tensor]:
        """Zeros before the first update: in fp16 the first steps may all be left out."""
        states = {name: self._optimizer.state[master] for name, master in self._masters.items()}
        return {
            name: (state[key] if state else torch.zeros_like(self._masters[name])).detach().cpu().clone()
            for name, state in states.items()
        }

    def _restore(self, state: TrainingState) -> None:
        state.check_names(self._parameters)
        self._loss_scale.restore(state.numbers)
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(state.weights[name])
                self._optimizer.state[master] = {
                    "step": torch.tensor(float(state.step - self._loss_scale.skipped)),
                    "exp_avg": state.exp_avg[name].to(self.device, copy=True),
                    "exp_avg_sq": state.exp_avg_sq[name].to(self.device, copy=True),
                }
        self._publish()
