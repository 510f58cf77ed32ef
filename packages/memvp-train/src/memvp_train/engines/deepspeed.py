"""The DeepSpeed engine: ZeRO 1 to 3 behind the verbs of engines/local.py. The only file that imports deepspeed.

ZeRO 0 is data_parallel.py. Nothing is compiled: torch's AdamW is passed in and the shared-memory collective, which
DeepSpeed would build with g++ at start-up, is switched off. DeepSpeed's own checkpoints (pickle, bound to a world size)
are never written or read.
"""

import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memvp_train.checkpoints.state import TrainingState
from memvp_train.config import LaunchConfig, StageConfig
from memvp_train.engines.local import DTYPES
from memvp_train.optim import loss_scale
from memvp_train.optim.optimizer import build_optimizer, parameter_groups

_ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
# The loss scale of optim/loss_scale.py, in DeepSpeed's words; 0 makes it dynamic.
_FP16 = {
    "enabled": True,
    "loss_scale": 0,
    "initial_scale_power": int(math.log2(loss_scale.START)),
    "loss_scale_window": loss_scale.GROWTH_INTERVAL,
    "min_loss_scale": loss_scale.LOWEST,
    "hysteresis": 1,
}


def import_deepspeed(*, use_gpu: bool) -> Any:
    """Import DeepSpeed quietly and without its compiled CPU collective."""
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Its autotuner, which nobody here calls, imports mlflow if it can: half of the import time of every worker.
    is_masked = "mlflow" not in sys.modules
    if is_masked:
        sys.modules["mlflow"] = cast(Any, None)
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        if is_masked:
            del sys.modules["mlflow"]

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


def deepspeed_settings(stage: StageConfig, *, launch: LaunchConfig) -> dict[str, Any]:
    """DeepSpeed's JSON settings for a stage."""
    zero = {"stage": launch.zero_stage, "overlap_comm": launch.use_gpu, "contiguous_gradients": True}
    if launch.zero_stage == 3:
        # Tensors below this size stay whole on every worker: positions and LoRA pairs are cheaper kept than gathered.
        zero["stage3_param_persistence_threshold"] = 100_000
    place = {"device": "cpu", "pin_memory": launch.use_gpu}
    if launch.offload_optimizer:
        zero["offload_optimizer"] = place
    if launch.offload_parameters:
        zero["offload_param"] = place
    settings = {
        "train_micro_batch_size_per_gpu": stage.micro_batch_size,
        # The loop says which micro-batch of a step is its last: their number differs from step to step.
        "gradient_accumulation_steps": 1,
        "gradient_clipping": stage.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": launch.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**31,
    }
    if launch.offload_optimizer:
        # torch's AdamW does these updates too: DeepSpeed's own for the CPU has to be compiled first.
        settings["zero_force_ds_cpu_optimizer"] = False
    if launch.precision == "fp16":
        settings["fp16"] = _FP16
    return settings


class DeepSpeedEngine:
    """One rank of a process group that is already initialised (Ray does it, a test by hand)."""

    def __init__(
        self,
        model: nn.Module,
        *,
        trainable: Mapping[str, Tensor],
        stage: StageConfig,
        launch: LaunchConfig,
        device: torch.device | str = "cpu",
        state: TrainingState | None = None,
    ) -> None:
        # Groups that DeepSpeed makes itself would give up after 10 minutes, in the middle of a slow load.
        os.environ.setdefault("DEEPSPEED_TIMEOUT", str(math.ceil(launch.timeout_seconds / 60)))
        self._deepspeed = import_deepspeed(use_gpu=launch.use_gpu)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device, self.dtype = torch.device(device), DTYPES[launch.precision]
        self._parameters = dict(trainable)
        if state is not None:
            _copy_weights(self._parameters, state=state)
        self._deepspeed.init_distributed(dist_backend="nccl" if launch.use_gpu else "gloo", verbose=False)
        optimizer = build_optimizer(parameter_groups(self._parameters, stage=stage), stage=stage)
        self._engine, _, _, _ = self._deepspeed.initialize(
            model=model.to(dtype=self.dtype),
            model_parameters=list(self._parameters.values()),
            optimizer=optimizer,
            config=deepspeed_settings(stage, launch=launch),
        )
        self.model: nn.Module = self._engine
        self.groups: list[dict[str, Any]] = self._engine.optimizer.param_groups
        self._skipped = 0
        if state is not None:
            self._restore(state)

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages over ranks; the loss is already a share of the global mean, so the average is undone.
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self) -> float:
        try:
            self._engine.step()
        except Exception as error:
            # DeepSpeed has no class of its own for this.
            if "loss scale already at minimum" in str(error):
                raise loss_scale.OverflowingError(loss_scale.hopeless(loss_scale.LOWEST)) from error
            raise
        if self.dtype == torch.float16 and not self._engine.was_step_applied():
            self._skipped += 1
            return 0.0
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    def gather(self, *, step: int) -> TrainingState:
        if not self._engine.optimizer.optimizer.state:
            # In fp16 the first steps may all be left out.
            self._make_moments(step=0)
        self._link_moments()
        get = self._deepspeed.utils.safe_get_full_optimizer_state
        weights = {name: _to_cpu(self._full_weight(parameter)) for name, parameter in self._parameters.items()}
        moments = {
            key: {name: _to_cpu(get(parameter, key)) for name, parameter in self._parameters.items()}
            for key in _ADAM_MOMENTS
        }
        return TrainingState(step=step, weights=weights, numbers=self._scale_numbers(), **moments)

    def _scale_numbers(self) -> dict[str, float]:
        if self.dtype != torch.float16:
            return {}
        scaler = self._engine.optimizer.loss_scaler
        good_steps = scaler.cur_iter - scaler.last_overflow_iter - 1
        numbers = (scaler.cur_scale, good_steps, self._skipped)
        return dict(zip((loss_scale.SCALE, loss_scale.GOOD_STEPS, loss_scale.SKIPPED), numbers, strict=True))

    def _restore_scale(self, numbers: Mapping[str, float]) -> None:
        if self.dtype == torch.float16:
            scaler = self._engine.optimizer.loss_scaler
            scaler.cur_scale = numbers[loss_scale.SCALE]
            scaler.cur_iter, scaler.last_overflow_iter = int(numbers[loss_scale.GOOD_STEPS]), -1
            self._skipped = int(numbers[loss_scale.SKIPPED])

    def _full_weight(self, parameter: Tensor) -> Tensor:
        return self._deepspeed.utils.safe_get_full_fp32_param(parameter)

    def _restore(self, state: TrainingState) -> None:
        """Set master weights and Adam moments, which exist only after a first step, from a gathered state."""
        self._restore_scale(state.numbers)
        self._make_moments(step=state.step - self._skipped)
        self._link_moments()
        for name, parameter in self._parameters.items():
            self._set(parameter, state.weights[name])
            for key in _ADAM_MOMENTS:
                self._set(parameter, getattr(state, key)[name], key=key)

    def _make_moments(self, *, step: int) -> None:
        zero = self._engine.optimizer
        partitions = zero.fp32_partitioned_groups_flat if self._is_stage_3 else zero.single_partition_of_fp32_groups
        for partition in partitions:
            moments = {key: torch.zeros_like(partition) for key in _ADAM_MOMENTS}
            zero.optimizer.state[partition] = {"step": torch.tensor(float(step)), **moments}

    def _link_moments(self) -> None:
        """Let ZeRO-1/2 parameters find their moments.

        DeepSpeed (0.19) links them once, after the step of the first parameter group, when those of the other groups
        do not exist yet; so it is done again here. The links are views, and cheap.
        """
        if not self._is_stage_3:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def _is_stage_3(self) -> bool:
        return self._engine.zero_optimization_stage() == 3

    def _set(self, parameter: Tensor, value: Tensor, *, key: str | None = None) -> None:
        utils, value = self._deepspeed.utils, value.to(self.device)
        if not self._is_stage_3:
            if key is None:
                utils.safe_set_full_fp32_param(parameter, value)
            else:
                utils.safe_set_full_optimizer_state(parameter, value, key)
            return
        # safe_set_full_* of ZeRO-3 fails when the size is not a multiple of the world size, so each rank sets its part.
        size = cast(Any, parameter).ds_tensor.ds_numel
        flat = torch.zeros(size * self.world_size, device=self.device)
        flat[: value.numel()] = value.flatten()
        part = flat.narrow(0, size * self.rank, size)
        if key is None:
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, key)


def _copy_weights(parameters: Mapping[str, Tensor], *, state: TrainingState) -> None:
    """Put saved weights into a model that DeepSpeed has not wrapped yet."""
    state.check_names(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.weights[name])


def _to_cpu(value: Tensor) -> Tensor:
    return value.detach().float().cpu().clone()
