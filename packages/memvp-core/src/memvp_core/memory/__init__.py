"""The retrieval: rows of an image as keys and values beside an FFN, in four exact forms.

inputs: what a call may bring as images
prompt: VisualPrompt, the trainable part: features to codes, rows and parts
arrange: which part of a batch reads which image
entries: parts to the keys and values that a batch reads
reading: all that the layers need to know during one call
forms: the exact forms of the retrieval, and `retrieve`
loops: the slow form, the oracle
precision: products of 16-bit tensors that stay in float32
"""

from memvp_core.memory.forms import Activation, read_form, retrieve

__all__ = ["Activation", "read_form", "retrieve"]
