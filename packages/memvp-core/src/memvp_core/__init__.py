"""Memory-space visual prompting: image features as extra key/value rows of a language model's FFNs.

model: MemVPModel, the language model that reads images
pretrained: what a model has learnt, saved and loaded
config: every setting of a memory
visual_memory: images projected once, to keep and carry
backbones: where the feed-forward networks sit in each architecture
injection: the retrieval beside these networks, by hooks
lora: LoRA on the language model, through PEFT
norms: the language model's norms, trained along
offload: weights that accelerate keeps elsewhere between calls
scales: which retrieval scale does a pretrained model no harm
flops: what a form costs, and which one `auto` takes
reference: the paper's equations as loops
trainer_face: what Trainer and PEFT ask of a model
trainer: adapters in the checkpoints of transformers' Trainer
files: tensors and settings on disk
"""

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
