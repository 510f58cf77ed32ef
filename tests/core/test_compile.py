"""torch.compile, of the whole model or of the language model alone, follows the images from call to call.

In a process of its own: the shape checker of these tests is Python that the compiler cannot trace.
"""

import subprocess
import sys
from typing import Any

import pytest

# None is image i for sequence i; then shared, missing and reordered images, in calls of the same shape.
INDEXES = [None, [0, -1, 2, 2], [3, 3, 3, 3], [3, 2, 1, 0], [0, -1, 1, 1]]


# Tens of seconds, most of them the compiler's import.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["whole_model", "language_model"])
def test_compiled_equals_eager(part: str) -> None:
    done = subprocess.run([sys.executable, __file__, part], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def compare(part: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from memvp_core import MemVPConfig, get_memvp_model

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes)).eval()
    model: Any = get_memvp_model(base, MemVPConfig(vision_hidden_size=6, num_slots=5, visual_scale=1.0)).eval()
    torch.nn.init.normal_(model.prompt.value_positions)
    ids, features = torch.randint(3, 40, (4, 6)), torch.randn(4, 4, 6)
    indexes = [None if index is None else torch.tensor(index) for index in INDEXES]
    wanted = [model(ids, visual_features=features, image_index=index).logits for index in indexes]
    # The eager backend: what is tested is the tracing, not the kernels.
    if part == "whole_model":
        model = torch.compile(model, backend="eager")
    else:
        model.language_model = torch.compile(base, backend="eager", fullgraph=True)
    for index, logits in zip(indexes, wanted, strict=True):
        found = model(ids, visual_features=features, image_index=index).logits
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-6)


if __name__ == "__main__":
    compare(sys.argv[1])
