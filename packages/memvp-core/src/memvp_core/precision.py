"""Scores in float32 from 16-bit states and keys.

A 16-bit product rounds the scores as coarsely as adding image rows to positions in 16 bits would (2 % of the visual
part); kept in float32, the error of the `split` form falls tenfold. Only the 16-bit inputs are kept for backward.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_SHORT = (torch.float16, torch.bfloat16)


def dot(x: Float[Tensor, "E M D"], keys: Float[Tensor, "*E R D"]) -> Float[Tensor, "E M R"]:
    """Inner products of states and keys, in float32 or wider; keys are shared (R, D) or one set per entry."""
    if x.dtype not in _SHORT:
        return x @ keys.mT
    # torch leaves apply partly untyped.
    wide_dot: Any = _WideDot
    if keys.ndim == 2:
        return wide_dot.apply(x.reshape(1, -1, x.shape[-1]), keys[None]).view(*x.shape[:-1], -1)
    return wide_dot.apply(x, keys)


class _WideDot(torch.autograd.Function):
    """Batched x keys^T of 16-bit tensors with a float32 result; gradients have the dtype of the inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor) -> Tensor:
        ctx.save_for_backward(x, keys)
        return _wide_product(x, keys.mT)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, keys = ctx.saved_tensors
        grad = grad_outputs[0].to(x.dtype)
        grad_x = torch.bmm(grad, keys) if ctx.needs_input_grad[0] else None
        grad_keys = torch.bmm(grad.mT, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_keys


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    # Only CUDA's matrix product can widen its result; elsewhere the inputs are widened first.
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
