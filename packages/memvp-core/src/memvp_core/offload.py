"""Models whose weights accelerate keeps elsewhere until a module runs (cpu_offload, disk_offload, device_map)."""

from typing import Any

import torch
from torch import nn


def execution_device(module: nn.Module) -> torch.device:
    """Where a module with parameters computes: accelerate's hooks say so, else its parameters."""
    devices = [hook.execution_device for hook in _hooks(module) if getattr(hook, "execution_device", None) is not None]
    return torch.device(devices[0]) if devices else next(module.parameters()).device


def refuse_offloaded(model: nn.Module, *, wanted: str) -> None:
    """What would train among weights that are on the meta device between calls would get no values."""
    # torch leaves the items partly untyped.
    untyped: Any = model
    for path, module in untyped.named_modules():
        if any(getattr(hook, "offload", False) for hook in _hooks(module)):
            raise ValueError(
                f"{wanted} needs weights that stay in their place, but accelerate has offloaded those of {path!r}: "
                "load the language model without offloading."
            )


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """Accelerate's, one by one."""
    hook: Any = getattr(module, "_hf_hook", None)
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))
