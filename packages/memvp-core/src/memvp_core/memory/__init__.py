"""The retrieval: rows of an image as keys and values beside an FFN, in four exact forms."""

from memvp_core.memory.forms import Activation, read_form, retrieve

__all__ = ["Activation", "read_form", "retrieve"]
