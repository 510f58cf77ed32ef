"""What nearly every program of the tests imports, DeepSpeed if it is installed; forks.py does it once for all."""

import gc
from contextlib import suppress

import peft  # noqa: F401
import torch._dynamo  # noqa: F401  (at the first optimiser, it would be imported by every fork)
from transformers import BartForConditionalGeneration, LlamaForCausalLM  # noqa: F401

with suppress(ImportError):
    from memvp_train.engines.deepspeed import import_deepspeed

    import_deepspeed(use_gpu=False)
# Otherwise every fork would look through all of it again and again, and copy the pages.
gc.freeze()
