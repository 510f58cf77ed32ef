"""Memory-space visual prompting: image features as extra key/value rows of a language model's FFNs."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memvp_core.config import MemVPConfig
    from memvp_core.model import MemVPModel, get_memvp_model
    from memvp_core.vision.tower import VisionTower
    from memvp_core.visual_memory import VisualMemory

__all__ = ["MemVPConfig", "MemVPModel", "VisionTower", "VisualMemory", "get_memvp_model"]

# Imported when first asked for: settings alone (memvp_core.config) need no torch, whose import takes seconds.
_HOME = {
    "MemVPConfig": "memvp_core.config",
    "MemVPModel": "memvp_core.model",
    "VisionTower": "memvp_core.vision.tower",
    "VisualMemory": "memvp_core.visual_memory",
    "get_memvp_model": "memvp_core.model",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
