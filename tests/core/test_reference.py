"""The oracle itself: the loops agree with the base model's own FFN over literally concatenated weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from memvp_core.reference import concatenated_weights, ffn, ffn_with_memory, memory_rows

WIDTH, FFN_WIDTH, SLOTS = 5, 7, 3


def random_tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("gated", [False, True], ids=["eq6_eq8", "eq12_eq11"])
def test_loops_equal_concatenated_rows_in_value_and_gradient(gated: bool) -> None:
    tensors = random_tensors((WIDTH,), *[(FFN_WIDTH, WIDTH)] * 3, *[(SLOTS, WIDTH)] * 2)
    x, w1, w2, w3, keys, values = tensors
    gate = w3 if gated else None
    loops = ffn_with_memory(
        x, w1=w1, w2=w2, w3=gate, keys=keys, values=values, activation=functional.silu, retrieval_scale=0.3
    )
    wide1, wide2, wide3 = concatenated_weights(x, w1=w1, w2=w2, w3=gate, keys=keys, values=values, retrieval_scale=0.3)
    concatenated = ffn(x, w1=wide1, w2=wide2, w3=wide3, activation=functional.silu)
    torch.testing.assert_close(loops, concatenated, rtol=1e-12, atol=1e-12)
    inputs = [tensor for tensor in tensors if gated or tensor is not w3]
    # x also sits in the gate row x / |x|^2, where its gradient cancels: the gate is 1 for every x.
    for left, right in zip(
        torch.autograd.grad(loops.sum(), inputs), torch.autograd.grad(concatenated.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


def test_loops_equal_the_ffn_of_transformers(llama) -> None:
    mlp = llama().model.layers[0].mlp
    x = torch.randn(16, dtype=torch.float64)
    out = ffn(x, w1=mlp.gate_proj.weight, w2=mlp.down_proj.weight.T, w3=mlp.up_proj.weight, activation=mlp.act_fn)
    torch.testing.assert_close(out, mlp(x), rtol=1e-12, atol=1e-12)


def test_rows_beyond_the_image_are_positions() -> None:
    projected, positions = random_tensors((2, WIDTH), (SLOTS, WIDTH))
    rows = memory_rows(projected, positions=positions, visual_scale=0.5)
    assert torch.equal(rows[:2], 0.5 * projected + positions[:2])
    assert torch.equal(rows[2], positions[2])
    assert torch.equal(memory_rows(None, positions=positions, visual_scale=0.5), positions)
