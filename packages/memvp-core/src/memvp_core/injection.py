"""Put the retrieval beside the FFNs of a model with forward hooks, and take it out again without a trace.

The memory of a call lies in a slot that belongs to one model and one thread, only while the call runs. Gradient
checkpointing runs a layer again in backward, when the call is long over; so the memory's tensors also travel
as arguments of every checkpoint, and the slot is filled again around the second run.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memvp_core.backbones import FFNSite, language_prefix
from memvp_core.memory.reading import Reading

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


class FFNHook:
    """Adds the retrieval to the output of one FFN."""

    # Its hooks are bound methods, so that a deep copy of the model calls the copy's own slot.

    def __init__(self, slot: Slot, *, layer: int, activation: Callable[[Tensor], Tensor]) -> None:
        """`layer` counts the layers with memory; `activation` is the FFN's own phi."""
        self._slot = slot
        self._layer = layer
        self._activation = activation
        self._kept = _Kept()

    def attach(self, model: nn.Module, site: FFNSite) -> list[RemovableHandle]:
        """Hook the modules of a site; their handles take the hooks out again."""
        last = model.get_submodule(site.last)
        if site.first == site.last:
            return [last.register_forward_hook(self.add_to_output, with_kwargs=True)]
        first = model.get_submodule(site.first)
        handles = [first.register_forward_pre_hook(self.keep_input, with_kwargs=True)]
        if site.batched is not None:
            batched = model.get_submodule(site.batched)
            handles.append(batched.register_forward_hook(self.keep_shape))
        return [*handles, last.register_forward_hook(self.add_to_later_output)]

    def add_to_output(self, ffn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of an FFN that is one module; None leaves the output as it is."""
        return self._added(_first(args, kwargs), output)

    def keep_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the first of several modules."""
        self._kept.x = _first(args, kwargs)

    def keep_shape(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook where the states still have the shape (batch, tokens, width)."""
        self._kept.shape = _states(output).shape

    def add_to_later_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """Forward hook of the last of several modules."""
        x, self._kept.x = self._kept.x, None
        shape, self._kept.shape = self._kept.shape, None
        return self._added(x if shape is None else x.view(shape), output)

    def _added(self, x: Tensor, output: Any) -> Any:
        reading = self._slot.reading
        if reading is None:
            return None
        states = _states(output)
        # Past the module's hooks: ZeRO-3 counts calls there and waits for ever where ranks differ, and how often a
        # batch needs phi depends on its images.
        phi = self._activation.forward if isinstance(self._activation, nn.Module) else self._activation
        states = states + reading.retrieve(x, layer=self._layer, activation=phi).view_as(states)
        return states if isinstance(output, Tensor) else (states, *output[1:])


class _Kept(threading.local):
    """What a hook has seen of the FFN that runs in this thread; between its first and last module only."""

    x: Any = None
    shape: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Kept, ())


def _states(output: Any) -> Tensor:
    """Modules give their states alone, or first of several things."""
    return output if isinstance(output, Tensor) else output[0]


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()))


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
        refuse_reentrant(getattr(self.original, "keywords", {}) | kwargs)
        tensors = reading.entries.tensors

        def run_again(*arguments: Any) -> Any:
            entries = reading.entries.with_tensors(arguments[: len(tensors)])
            with self._slot.bound(replace(reading, entries=entries)):
                return function(*arguments[len(tensors) :])

        return self.original(run_again, *tensors, *args, **kwargs)


def refuse_reentrant(settings: dict[str, Any]) -> None:
    """Reentrant checkpointing backs up once per layer, which DDP and ZeRO-3 allow a shared parameter only once."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if settings.get("use_reentrant") and distributed and torch.distributed.get_world_size() > 1:
        raise ValueError(
            "reentrant gradient checkpointing does not work with a visual memory in several processes, since all "
            'layers share its parameters: use gradient_checkpointing_kwargs={"use_reentrant": False}.'
        )


def refuse_second_memory(model: nn.Module) -> None:
    """Two memories would share the layers, and only one could go along into their recomputation."""
    for path, module in _language_modules(model):
        if any(_is_ours(hook) for hook in module._forward_hooks.values()):
            raise ValueError(
                f"this {type(model).__name__} has a memory already (at {path}), and a second one would read through "
                "the same layers: call unload() on the first MemVPModel or VisionTower, or load the model again."
            )


def _language_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Without a vision tower beside the language model, which may have adapters of its own."""
    prefix = language_prefix(model)
    # torch leaves the items partly untyped.
    untyped: Any = model
    yield from ((path, module) for path, module in untyped.named_modules() if path.startswith(prefix))


def _delete_our_hooks(module: Any) -> None:
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
            del hooks[key]


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), FFNHook)


class Injection:
    """The hooks in one model."""

    def __init__(
        self, model: nn.Module, *, sites: Sequence[FFNSite], activation: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """`activation` is phi for all sites; None takes each FFN's own."""
        self.sites = tuple(sites)
        self.slot = Slot()
        self._model = model
        self._activation = activation
        self._factor = 1.0
        self._handles: list[RemovableHandle] = []
        self._checkpointed: list[nn.Module] = []
        try:
            self._attach()
        except Exception:  # a site that is not there: those before it have hooks already
            self.remove()
            raise

    def _attach(self) -> None:
        for number, site in enumerate(self.sites):
            phi = self._activation or attrgetter(site.activation)(self._model)
            hook = FFNHook(self.slot, layer=number, activation=phi)
            self._handles += hook.attach(self._model, site)
        paths = {path for site in self.sites for path in (site.first, site.last)}
        self._hooked = {path: self._model.get_submodule(path) for path in paths}
        self._checkpointed = [module for module in self._model.modules() if hasattr(module, "gradient_checkpointing")]

    @contextmanager
    def taken_out(self) -> Generator[None]:
        """No hooks during a block that puts other modules at the sites' paths, and hooks on these afterwards."""
        self.remove()
        try:
            yield
        finally:
            self._attach()

    @contextmanager
    def reading(self, reading: Reading) -> Generator[None]:
        """Let the layers read during a block."""
        self._follow_replacements()
        self._wrap_checkpoints()
        with self.slot.bound(self._scaled(reading)):
            yield

    def _scaled(self, reading: Reading) -> Reading | None:
        if self._factor == 1.0:
            return reading
        # Not times 0, which leaves a NaN one.
        return reading.scaled(self._factor) if self._factor else None

    @contextmanager
    def scaled(self, factor: float) -> Generator[None]:
        """Multiply what every layer retrieves during a block, for all threads: 0 is the model without its memory."""
        before, self._factor = self._factor, factor
        try:
            yield
        finally:
            self._factor = before

    def _follow_replacements(self) -> None:
        """Hook what stands at the sites now: PEFT's `add_adapter` may have put a copy there, whose hooks are dead."""
        if any(self._model.get_submodule(path) is not module for path, module in self._hooked.items()):
            with self.taken_out():
                for _, module in _language_modules(self._model):
                    _delete_our_hooks(module)

    def _wrap_checkpoints(self) -> None:
        """Before every call, since checkpointing can be switched on at any time and by anyone."""
        for module in self._checkpointed:
            function = getattr(module, _CHECKPOINT, None)
            if function is not None and not isinstance(function, CheckpointWithMemory):
                setattr(module, _CHECKPOINT, CheckpointWithMemory(function, slot=self.slot))

    def remove(self) -> None:
        """Leave the model as it was found."""
        while self._handles:
            self._handles.pop().remove()
        for module in self._checkpointed:
            function = getattr(module, _CHECKPOINT, None)
            if isinstance(function, CheckpointWithMemory):
                setattr(module, _CHECKPOINT, function.original)
