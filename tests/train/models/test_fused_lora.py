"""The fused layer equals PEFT's in value and every gradient, and is PEFT's own where more than plain LoRA is asked."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from memvp_train.config import LoraSettings
from memvp_train.methods.memvp import lora_config
from memvp_train.models.fused_lora import FusedLoraLinear


def _pair(*, bias: bool, dropout: float = 0.0, rank: int = 3) -> tuple[nn.Module, nn.Module]:
    """The same weights in PEFT's layer and in ours, float64, both low-rank factors away from zero."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(7, 5, bias=bias)).double().requires_grad_(False)
    settings = LoraSettings(rank=rank, alpha=5, dropout=dropout, target_modules=("0",))
    plain = LoraConfig(r=rank, lora_alpha=5, lora_dropout=dropout, target_modules=["0"])
    ours = inject_adapter_in_model(lora_config(settings), copy.deepcopy(base)).double()
    theirs = inject_adapter_in_model(plain, base).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def _results(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    y = model(x)
    return [y, *torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), [x, *trained])]


@pytest.mark.parametrize("shape", [(1, 7), (4, 7), (2, 3, 7), (1, 63, 7)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_fused_equals_peft_in_value_and_gradient(shape: tuple[int, ...], bias: bool) -> None:
    ours, theirs = _pair(bias=bias)
    assert isinstance(ours[0], FusedLoraLinear)  # type: ignore[index]
    x = torch.randn(*shape, dtype=torch.float64)
    for found, expected in zip(_results(ours, x), _results(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradient_against_finite_differences() -> None:
    ours, _ = _pair(bias=True)
    trained = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    assert torch.autograd.gradcheck(
        lambda x, *_: ours(x), (torch.randn(3, 7, dtype=torch.float64, requires_grad=True), *trained)
    )


def test_dropout_is_left_to_peft() -> None:
    ours, theirs = _pair(bias=True, dropout=0.5)
    x = torch.randn(6, 7, dtype=torch.float64)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        outputs.append(model(x))
    assert torch.equal(*outputs)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_hooks_of_the_base_layer_are_called(kind: str) -> None:
    """A way past them would be a way past what they do."""
    ours, theirs = _pair(bias=True)
    for model in (ours, theirs):
        base = model[0].get_base_layer()  # type: ignore[index]
        if kind == "forward":
            base.register_forward_hook(lambda module, args, output: output + args[0].sum())
        else:
            base.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    x = torch.randn(6, 7, dtype=torch.float64)
    for found, expected in zip(_results(ours, x), _results(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_switched_off_it_is_the_base_layer_bit_for_bit() -> None:
    ours, _ = _pair(bias=True)
    x = torch.randn(6, 7, dtype=torch.float64)
    layer = ours[0]  # type: ignore[index]
    layer.enable_adapters(False)
    assert torch.equal(ours(x), layer.get_base_layer()(x))


def test_saved_config_is_plain_peft() -> None:
    settings = LoraSettings(rank=4)
    plain = LoraConfig(
        r=4, lora_alpha=settings.alpha, target_modules=list(settings.target_modules), task_type="CAUSAL_LM"
    )
    assert lora_config(settings).to_dict() == plain.to_dict()
