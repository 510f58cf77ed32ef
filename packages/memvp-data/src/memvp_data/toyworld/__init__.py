"""A drawn micro-world that writes itself in the official files of every benchmark, for tests, demos and first steps.

scenes: which things stand where
draw: scenes to pixels
language: what can be said about a scene
write: the world as LLaVA's files
shipped: where its two foundation models lie
"""

from memvp_data.toyworld.shipped import model_path
from memvp_data.toyworld.write import ToyWorldConfig, images_in, write_toyworld

__all__ = ["ToyWorldConfig", "images_in", "model_path", "write_toyworld"]
