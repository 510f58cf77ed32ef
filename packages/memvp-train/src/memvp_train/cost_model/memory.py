"""Memory of one worker at the worst moment of a step: what ZeRO splits by arithmetic, the step itself by a trace."""

from dataclasses import dataclass

from torch import nn

from memvp_train.config import LaunchConfig
from memvp_train.cost_model.hardware import Machine

# DeepSpeed's defaults, in numbers: what ZeRO-3 keeps gathered at most, and the buffer in which gradients are sent.
_LIVE_PARAMETERS = 10**9
_BUCKET = 5 * 10**8
_MASTER, _MOMENTS = 4, 8
"""Bytes per trained parameter in fp32: the copy that is updated, and AdamW's two averages."""


@dataclass(frozen=True)
class Counts:
    """The numbers that a model holds."""

    num_frozen: int
    """Frozen parameters."""
    num_trained: int
    """Trained parameters."""
    largest: int
    """Numbers of the largest trained tensor."""

    @classmethod
    def of(cls, model: nn.Module) -> "Counts":
        """Count a model; one on the meta device will do."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        trained = [size for size, trains in sizes if trains]
        return cls(sum(size for size, trains in sizes if not trains), sum(trained), max(trained, default=0))


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at the worst moment of a step; they add up to `total`."""

    weights: int
    """Frozen and trained weights, or this worker's part of them under ZeRO-3."""
    optimizer: int
    """fp32 copies of what is trained, and AdamW's averages."""
    gradients: int
    """Of what is trained, in the type of the weights and in fp32; from ZeRO-2 on this worker's part in fp32."""
    images: int
    """Features of the micro-batch's images and what is made of them before the first layer."""
    activations: int
    """What else the step holds: mostly what forward keeps for backward, and the optimiser's own scratch."""
    buffers: int
    """Weights that ZeRO-3 has gathered, and the buffers in which gradients are sent."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.gradients + self.images + self.activations + self.buffers


def memory_of(
    counts: Counts, *, traced_peak: int, images: int, launch: LaunchConfig, machine: Machine, accumulates: bool
) -> Memory:
    """The memory of a worker whose forward and backward reach `traced_peak` bytes beyond weights and old gradients."""
    itemsize, zero = (4 if launch.precision == "fp32" else 2), zero_stage(launch)
    own = -(-counts.num_trained // max(1, launch.num_workers)) if zero >= 1 else counts.num_trained
    keeps_masters = itemsize == 2 or zero >= 1
    fp32 = 4 * (own if zero >= 2 else counts.num_trained) * keeps_masters
    # From ZeRO-2 on a gradient is sent and let go as soon as it is there.
    gradients = fp32 + itemsize * counts.num_trained * (zero < 2)
    scratch = 8 * (own if zero >= 1 else counts.largest)
    before = itemsize * counts.num_trained * (accumulates and zero < 2) + fp32 * (zero >= 1)
    peak = max(traced_peak + before, gradients + scratch)
    weights = itemsize * (counts.num_frozen + counts.num_trained)
    kept = -(-weights // launch.num_workers) if zero == 3 else weights
    return Memory(
        weights=0 if launch.offload_parameters else kept,
        optimizer=0 if launch.offload_optimizer else own * (_MOMENTS + _MASTER * keeps_masters),
        gradients=min(gradients, peak),
        images=images,
        activations=max(0, peak - gradients - images),
        buffers=_buffers(counts, zero=zero, itemsize=itemsize, machine=machine),
    )


def zero_stage(launch: LaunchConfig) -> int:
    """DeepSpeed's stage; 0 without DeepSpeed."""
    return launch.zero_stage if launch.num_workers else 0


def _buffers(counts: Counts, *, zero: int, itemsize: int, machine: Machine) -> int:
    # DeepSpeed's optimiser for ZeRO-1 in bf16 has no such buffer.
    if zero == 0 or (zero == 1 and itemsize == 2):
        return 0
    # Memory that is set aside but never written costs a CPU nothing.
    bucket = min(_BUCKET, counts.num_trained) if machine.is_rough else _BUCKET
    if zero == 3:
        return itemsize * (bucket + min(_LIVE_PARAMETERS, counts.num_frozen + counts.num_trained))
    return itemsize * bucket * (2 if machine.overlaps else 1)
