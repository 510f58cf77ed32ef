"""Memory-space visual prompting: image features as extra key/value rows of a language model's FFNs."""

from memvp_core.config import MemVPConfig
from memvp_core.model import MemVPModel, get_memvp_model
from memvp_core.vision.tower import VisionTower
from memvp_core.visual_memory import VisualMemory

__all__ = ["MemVPConfig", "MemVPModel", "VisionTower", "VisualMemory", "get_memvp_model"]
