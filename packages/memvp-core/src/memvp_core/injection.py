"""Put the retrieval beside the FFNs of a model with forward hooks, and take it out again without a trace.

The memory of a call lies in a slot that belongs to one model and one thread, only while the call runs. Gradient
checkpointing runs a layer again in backward, when the call is long over; so the memory's tensors also travel
as arguments of every checkpoint, and the slot is filled again around the second run.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memvp_core.backbones import Backbone, FfnSite
from memvp_core.reading import Reading

_CHECKPOINT = "_gradient_checkpointing_func"


class Slot:
    """Holds the reading of the call that runs in this thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def reading(self) -> Reading | None:
        """The present one; None outside a call."""
        return getattr(self._local, "reading", None)

    @contextmanager
    def bound(self, reading: Reading | None) -> Generator[None]:
        """Hold a reading for the length of a block."""
        before = self.reading
        self._local.reading = reading
        try:
            yield
        finally:
            self._local.reading = before

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or pickled slot is an empty one."""
        return (Slot, ())


class FfnHook:
    """Adds the retrieval to the output of one FFN."""

    def __init__(self, slot: Slot, *, layer: int, activation: str) -> None:
        """`layer` counts the layers with memory; `activation` is the FFN's attribute that holds phi."""
        self._slot = slot
        self._layer = layer
        self._activation = activation

    # A bound method, so that a deep copy of the model calls the copy's own slot.
    def add_retrieval(self, ffn: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook; None leaves the output as it is."""
        reading = self._slot.reading
        if reading is None:
            return None
        return output + reading.retrieve(args[0], layer=self._layer, activation=getattr(ffn, self._activation))


class CheckpointWithMemory:
    """A checkpointing function that takes the memory along into the recomputation."""

    def __init__(self, original: Callable[..., Any], *, slot: Slot) -> None:
        self.original = original
        self._slot = slot

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Checkpoint `function`; reentrant checkpointing finds gradients only for tensors among the arguments."""
        reading = self._slot.reading
        if reading is None:
            return self.original(function, *args, **kwargs)
        tensors = reading.entries.tensors

        def run_again(*arguments: Any) -> Any:
            entries = reading.entries.with_tensors(arguments[: len(tensors)])
            with self._slot.bound(replace(reading, entries=entries)):
                return function(*arguments[len(tensors) :])

        return self.original(run_again, *tensors, *args, **kwargs)


class Injection:
    """The hooks in one language model."""

    def __init__(self, model: nn.Module, *, backbone: Backbone, sites: Sequence[FfnSite]) -> None:
        self.sites = tuple(sites)
        self.activation = backbone.activation
        self.slot = Slot()
        self._model = model
        self._handles: list[RemovableHandle] = []
        for number, site in enumerate(sites):
            hook = FfnHook(self.slot, layer=number, activation=backbone.activation)
            self._handles.append(site.module.register_forward_hook(hook.add_retrieval))
        self._checkpointed = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]

    @contextmanager
    def reading(self, reading: Reading) -> Generator[None]:
        """Let the layers read during a block."""
        self._wrap_checkpoints()
        with self.slot.bound(reading):
            yield

    def _wrap_checkpoints(self) -> None:
        """Before every call, since checkpointing can be switched on at any time and by anyone."""
        for module in self._checkpointed:
            function = getattr(module, _CHECKPOINT, None)
            if function is not None and not isinstance(function, CheckpointWithMemory):
                setattr(module, _CHECKPOINT, CheckpointWithMemory(function, slot=self.slot))

    def remove(self) -> None:
        """Leave the model as it was found."""
        for handle in self._handles:
            handle.remove()
        for module in self._checkpointed:
            function = getattr(module, _CHECKPOINT, None)
            if isinstance(function, CheckpointWithMemory):
                setattr(module, _CHECKPOINT, function.original)
