"""torch.compile, of the whole model or of the language model alone, follows the images from call to call.

In a process of its own: the shape checker of these tests is Python that the compiler cannot trace.
"""

import subprocess
import sys
from typing import Any

import pytest

from tests.core.tiny_models import ARCHITECTURES, ENCODER_DECODERS, make_tiny

# None is image i for sequence i; then shared, missing and reordered images, in calls of the same shape.
INDEXES = [None, [0, -1, 2, 2], [3, 3, 3, 3], [3, 2, 1, 0], [0, -1, 1, 1]]


# Tens of seconds each, most of them the compiler's import.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def run(*arguments: str) -> None:
    """This file as a script, from the root of the workspace."""
    command = [sys.executable, "-m", "tests.core.test_compile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("part", ["whole_model", "language_model", "inductor"])
def test_compiled_llama_equals_eager(part: str) -> None:
    run("llama", part)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "llama"])
def test_compiled_equals_eager_where_the_base_compiles(name: str) -> None:
    """One graph, with the hooks in it, of every base that is one graph without them."""
    run(name, "language_model")


def compare(name: str, part: str) -> None:
    import torch

    from memvp_core import MemVPConfig, get_memvp_model

    base = make_tiny(name, dtype=torch.float32)
    ids, features = torch.randint(3, 39, (4, 6)), torch.randn(4, 4, 6)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :3]} if name in ENCODER_DECODERS else {})
    try:
        torch.compile(base, backend="eager", fullgraph=True)(**inputs)
    except torch._dynamo.exc.TorchDynamoException:
        print(f"{name} itself is not one graph", file=sys.stderr)
        return
    torch._dynamo.reset()
    model: Any = get_memvp_model(base, MemVPConfig(vision_hidden_size=6, num_slots=5, visual_scale=1.0)).eval()
    torch.nn.init.normal_(model.prompt.value_positions)
    indexes = [None if index is None else torch.tensor(index) for index in INDEXES]
    wanted = [model(**inputs, visual_features=features, image_index=index).logits for index in indexes]
    # The eager backend, but once: what is tested is the tracing, not the kernels.
    if part == "whole_model":
        model = torch.compile(model, backend="eager")
    else:
        backend = "inductor" if part == "inductor" else "eager"
        model.language_model = torch.compile(base, backend=backend, fullgraph=True)
    for index, logits in zip(indexes, wanted, strict=True):
        found = model(**inputs, visual_features=features, image_index=index).logits
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-4 if part == "inductor" else 1e-5)


if __name__ == "__main__":
    compare(*sys.argv[1:])
