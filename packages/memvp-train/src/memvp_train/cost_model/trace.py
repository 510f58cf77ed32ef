"""A training step without numbers: run on the meta device, where tensors are shapes alone, and counted as it runs.

What is counted is what the program really does, whatever the model: every operation of forward, recomputation and
backward with its FLOPs and the bytes that it moves, and the bytes alive at the worst moment. Nothing is allocated, so
a 70B model takes as long as a small one of as many layers: seconds.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from memvp_train.cost_model.hardware import Machine

_ATEN = torch.ops.aten
_FLASH = _ATEN._scaled_dot_product_flash_attention_for_cpu
# They read as many rows of their table as they give out, not the table.
_LOOK_UPS = (_ATEN.embedding, _ATEN.index, _ATEN.index_select, _ATEN.gather)


@dataclass(frozen=True)
class Operation:
    """One operation."""

    flops: int
    """Of its matrix products."""
    moved: int
    """Bytes read and written."""
    is_16_bit: bool
    """In bf16 or fp16."""

    def seconds(self, machine: Machine) -> float:
        """The roofline: the longer of computing and moving, and no shorter than one launch."""
        peak = machine.flops_16_bit if self.is_16_bit else machine.flops_32_bit
        computing = self.flops / (peak * machine.achieved_flops)
        moving = self.moved / (machine.memory_bandwidth * machine.achieved_bandwidth)
        return max(computing, moving, machine.launch_seconds)


class Trace(TorchDispatchMode):
    """Counts the operations inside `with Trace(...) as trace`."""

    def __init__(self, *, num_selected: int = 0) -> None:
        """`num_selected` is how many places a mask selects, which no shape tells."""
        super().__init__()
        self.operations: list[Operation] = []
        self.live_bytes = self.peak_bytes = 0
        self._known: Any = WeakIdKeyDictionary()
        self._num_selected = num_selected

    @property
    def flops(self) -> int:
        """Of all operations."""
        return sum(operation.flops for operation in self.operations)

    def seconds(self, machine: Machine) -> float:
        """One after the other."""
        return sum(operation.seconds(machine) for operation in self.operations)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in inputs:
            # What was there before the trace costs nothing, neither now nor when it goes.
            self._known.setdefault(tensor.untyped_storage(), None)
        out = self._run(func, args, kwargs)
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        is_view = all(tensor.untyped_storage() in self._known for tensor in outputs) and not func._schema.is_mutable
        if not is_view:
            self._count(func, args, kwargs, out, inputs=inputs, outputs=outputs)
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func is _ATEN._local_scalar_dense.default and args[0].is_meta:
            # "Is all of the mask set?" No: a batch has padding.
            return False
        if func is _ATEN.index.Tensor and args[0].is_meta and args[1][0].dtype == torch.bool:
            values, mask = args[0], args[1][0]
            return values.new_empty((self._num_selected, *values.shape[mask.ndim :]))
        if func is _ATEN._to_copy.default and not args[0].is_meta and kwargs.get("device") == torch.device("meta"):
            # The index of images keeps its values, which decide who reads what.
            return args[0].clone()
        return func(*args, **kwargs)

    def _count(
        self, func: Any, args: Any, kwargs: Any, out: Any, *, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        packet = func.overloadpacket
        moved = [*outputs, *outputs] if packet in _LOOK_UPS else [*inputs, *outputs]
        self.operations.append(
            Operation(
                flops=_flops(packet, args, kwargs, out),
                moved=sum(min(one.numel() * one.element_size(), one.untyped_storage().nbytes()) for one in moved),
                is_16_bit=bool(outputs) and outputs[0].element_size() == 2,
            )
        )
        for tensor in outputs:
            self._born(tensor.untyped_storage())

    def _born(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known[storage] = None
        num_bytes = storage.nbytes()
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._freed, num_bytes)

    def _freed(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


def _flops(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    if packet is _FLASH:
        return _attention_flops(args[0], args[1])
    if packet is _ATEN._scaled_dot_product_flash_attention_for_cpu_backward:
        # Scores again, and four products for the gradients.
        return _attention_flops(args[1], args[2]) * 5 // 2
    count = flop_registry.get(packet)
    return 0 if count is None else int(count(*args, **kwargs, out_val=out))


def _attention_flops(query: Tensor, key: Tensor) -> int:
    """Scores and values, two products."""
    batch, heads, num_queries, width = query.shape
    return 4 * batch * heads * num_queries * key.shape[-2] * width


@contextmanager
def tracing(*, num_selected: int, fuses_all_attention: bool) -> Iterator[Trace]:
    """Count what runs inside, with attention as the one operation it is on real devices.

    On the meta device torch writes out the scores of attention. Its CPU kernel does that only where there is dropout or
    a mask with a gradient; GPUs never do (`fuses_all_attention`).
    """
    unfused = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        mask, is_causal = kwargs.get("attn_mask"), kwargs.get("is_causal", False)
        is_plain = not kwargs.get("dropout_p") and (mask is None or not mask.requires_grad)
        if not query.is_meta or not (is_plain or fuses_all_attention):
            return unfused(query, key, value, **kwargs)
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype)
        return _FLASH(query, key, value, is_causal=is_causal, attn_mask=mask)[0]

    # A function mode would be the clean way, but torch leaves those before backward, where layers are recomputed.
    functional.scaled_dot_product_attention = attention
    try:
        with Trace(num_selected=num_selected) as trace:
            yield trace
    finally:
        functional.scaled_dot_product_attention = unfused
