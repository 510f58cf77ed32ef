"""Matrix products of 16-bit tensors whose results stay in float32.

A 16-bit product rounds the scores as coarsely as adding image rows to positions in 16 bits would (2 % of the visual
part); kept in float32, the error of the `split` form falls tenfold. Only the inputs are kept for backward.

Autocast would round every product's result again. So under it the memory computes as in a model whose weights have
autocast's dtype: `product_dtype` says which that is, and autocast itself is off.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_SHORT = (torch.float16, torch.bfloat16)


def product_dtype(dtype: torch.dtype, *, device: str) -> torch.dtype:
    """The dtype in which a model of this dtype multiplies here: autocast's where it is on; it leaves float64 alone."""
    return torch.get_autocast_dtype(device) if _is_autocast(device) and dtype != torch.float64 else dtype


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A block whose products have the dtype of their tensors."""
    return torch.autocast(device, enabled=False) if _is_autocast(device) else nullcontext()


def _is_autocast(device: str) -> bool:
    # The meta device is asked too, and torch raises for what it cannot autocast.
    return device != "meta" and torch.is_autocast_enabled(device)


def dot(x: Float[Tensor, "E M D"], keys: Float[Tensor, "*E R D"]) -> Float[Tensor, "E M R"]:
    """Inner products of states and keys, in float32 or wider; keys are shared (R, D) or one set per entry."""
    if keys.ndim == 2:
        if x.dtype == keys.dtype and x.dtype not in _SHORT:
            return functional.linear(x, keys)
        return wide(x.reshape(1, -1, x.shape[-1]), keys[None].mT).view(*x.shape[:-1], -1)
    return wide(x, keys.mT)


def wide(left: Float[Tensor, "E M K"], right: Float[Tensor, "E K N"]) -> Float[Tensor, "E M N"]:
    """left @ right in float32 or wider, exactly accumulated; the two may differ in dtype."""
    if left.dtype == right.dtype and left.dtype not in _SHORT:
        return torch.bmm(left, right)
    # torch leaves apply partly untyped.
    product: Any = _WideProduct
    return product.apply(left, right)


class _WideProduct(torch.autograd.Function):
    """Batched product with a float32 result; gradients have the dtype of the inputs."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return _product(left, right)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        grad_left = grad_right = None
        if ctx.needs_input_grad[0]:
            grad_left = torch.bmm(grad_outputs[0].to(right.dtype), right.mT).to(left.dtype)
        if ctx.needs_input_grad[1]:
            grad_right = torch.bmm(left.mT, grad_outputs[0].to(left.dtype)).to(right.dtype)
        return grad_left, grad_right


def _product(left: Tensor, right: Tensor) -> Tensor:
    # Only CUDA's matrix product can widen its result; elsewhere the inputs are widened first.
    if left.is_cuda and left.dtype == right.dtype:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
