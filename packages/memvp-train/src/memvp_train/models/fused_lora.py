"""A LoRA linear layer that adds its low-rank part inside the matrix product: the same values, less memory traffic.

    y = x W^T + bias + s (x A^T) B^T

PEFT writes out (x A^T) B^T, its multiple by s and the sum, each as large as y; here the product is accumulated into y.
On a CPU with small models that traffic is most of what LoRA costs. Parameters and their names are PEFT's own.
"""

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn


class FusedLoraLinear(lora.Linear):
    """PEFT's layer, with a faster forward where plain LoRA without dropout is asked for, and PEFT's own elsewhere."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) to (..., out)."""
        active = self.active_adapters
        if (
            args
            or kwargs
            or self.disable_adapters
            or self.merged
            or len(active) != 1
            or not self._is_plain(active[0], x)
        ):
            return super().forward(x, *args, **kwargs)
        name, base = active[0], self.get_base_layer()
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        return _FusedLora.apply(x, base.weight, base.bias, down, up, self.scaling[name])  # type: ignore[return-value]

    def _is_plain(self, name: str, x: Tensor) -> bool:
        device = x.device.type
        # torch refuses to say for the meta device.
        is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if name not in self.lora_A or name in self.lora_variant or is_autocast:
            return False
        base = self.get_base_layer()
        dropout, weight = self.lora_dropout[name], base.weight
        # Hooks of the inner layers are called by PEFT's own forward alone: those of ZeRO-3, which gather the weights,
        # and any that somebody has put there.
        return (
            (isinstance(dropout, nn.Identity) or not self.training)
            and not (base._forward_hooks or base._forward_pre_hooks)
            and not hasattr(weight, "ds_id")
            and x.dtype == weight.dtype == self.lora_A[name].weight.dtype
            and self.lora_A[name].bias is None
            and self.lora_B[name].bias is None
        )


class _FusedLora(torch.autograd.Function):
    """N rows, D in, E out, R rank. The base weight is frozen and gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_ED: Tensor, bias_E: Tensor | None, down_RD: Tensor, up_ER: Tensor, scale: float
    ) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        low_NR = x_ND @ down_RD.T
        y_NE = x_ND @ weight_ED.T if bias_E is None else torch.addmm(bias_E, x_ND, weight_ED.T)
        y_NE.addmm_(low_NR, up_ER.T, alpha=scale)
        ctx.save_for_backward(x_ND, weight_ED, down_RD, up_ER, low_NR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_NE.view(*x.shape[:-1], weight_ED.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_ND, weight_ED, down_RD, up_ER, low_NR = ctx.saved_tensors
        y_NE = gradients[0].reshape(-1, weight_ED.shape[0])
        low_gradient_NR = (y_NE @ up_ER).mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (y_NE @ weight_ED).addmm_(low_gradient_NR, down_RD).view(ctx.shape)
        up_gradient_ER = (y_NE.T @ low_NR).mul_(ctx.scale)
        return x_gradient, None, None, low_gradient_NR.T @ x_ND, up_gradient_ER, None
