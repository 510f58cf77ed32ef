"""LoRAs of every kind that PEFT makes: the active one is saved, and none takes the memory away or scales it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPModel
from tests.core.test_merge import answer
from tests.core.tiny_models import make_tiny

# The norms of transformers round to float32 inside, and a LoRA that is loaded is held in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
MATRICES = {"gpt2": ["c_fc", "c_proj"], "opt": ["fc1", "fc2"], "bart": ["fc1", "fc2"], "llama": ["down_proj"]}


def lora_config(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False} | settings)


def with_two(memvp: Any) -> MemVPModel:
    from peft import get_peft_model

    torch.manual_seed(3)
    base = get_peft_model(make_tiny(), lora_config(), adapter_name="first")
    base.add_adapter("second", lora_config(target_modules=["v_proj", "up_proj"], r=3))
    return memvp(base)


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_active_lora_is_saved(memvp, llama, batch, tmp_path: Path, name: str) -> None:
    ids, features = batch(images=4)
    model = with_two(memvp)
    model.language_model.set_adapter(name)
    wanted = answer(model, ids, features)
    model.save_pretrained(tmp_path)
    again = MemVPModel.from_pretrained(llama(), tmp_path).eval()
    torch.testing.assert_close(answer(again, ids, features), wanted, **CLOSE)


def test_two_active_loras_are_not_saved_as_one(memvp, tmp_path: Path) -> None:
    model = with_two(memvp)
    model.language_model.base_model.set_adapter(["first", "second"])
    with pytest.raises(ValueError, match=r"several LoRAs are active here \(first, second\), but an adapter holds one"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def shaken(model: MemVPModel) -> MemVPModel:
    """Everything that PEFT made moves away from its start."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.trainable_state().items():
            if not name.startswith("prompt."):
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    return model.eval()


@pytest.mark.parametrize("wrapped", [False, True], ids=["injected", "peft_model"])
def test_memory_stays_beside_ffns_that_train_whole(memvp, llama, batch, tmp_path: Path, wrapped: bool) -> None:
    from peft import get_peft_model

    ids, features = batch(images=4)
    plain = memvp()
    wanted = answer(plain, ids, features)
    config = lora_config(modules_to_save=["mlp"], init_lora_weights=True)
    model = memvp(get_peft_model(llama(), config)) if wrapped else memvp()
    if not wrapped:
        model.add_lora(config)
    torch.testing.assert_close(answer(model, ids, features), wanted, rtol=0, atol=0)
    wanted = answer(shaken(model), ids, features)
    assert not torch.allclose(answer(model, ids, None), wanted)
    model.save_pretrained(tmp_path)
    again = MemVPModel.from_pretrained(llama(), tmp_path).eval()
    torch.testing.assert_close(answer(again, ids, features), wanted, **CLOSE)
    model.merge_lora()
    torch.testing.assert_close(answer(model, ids, features), wanted, **CLOSE)


def test_peft_may_put_a_copy_where_the_memory_hangs(memvp, llama, batch) -> None:
    """Through PEFT's own `add_adapter`, of which we hear nothing."""
    from peft import get_peft_model

    ids, features = batch(images=4)
    peft_model = get_peft_model(llama(), lora_config(init_lora_weights=True))
    model = memvp(peft_model).eval()
    wanted = answer(model, ids, features)
    peft_model.add_adapter("second", lora_config(modules_to_save=["mlp"], init_lora_weights=True))
    peft_model.set_adapter("second")
    torch.testing.assert_close(answer(model, ids, features), wanted, rtol=0, atol=0)
    assert not torch.allclose(answer(model, ids, None), wanted)
    memvp(model.unload())


def test_ffns_that_train_whole_are_switched_off_too(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    base = llama().requires_grad_(False)
    before = base(ids).logits
    model = memvp(base)
    model.add_lora(lora_config(modules_to_save=["mlp"]))
    shaken(model)
    trainable = model.trainable_state().keys()
    with model.disable_adapter():
        assert torch.equal(answer(model, ids, features), before)
    assert model.trainable_state().keys() == trainable


@pytest.mark.parametrize("name", MATRICES)
def test_dora_scales_its_own_matrix_alone(memvp, batch, tmp_path: Path, name: str) -> None:
    """DoRA multiplies what its layer's base gives; the retrieval comes after it, as rows of the FFN would."""
    from peft import get_peft_model

    ids, features = batch(images=4)
    config = lora_config(target_modules=MATRICES[name], use_dora=True, fan_in_fan_out=name == "gpt2")
    model = memvp(make_tiny(name))
    model.add_lora(copy.deepcopy(config))
    wanted = answer(shaken(model), ids, features)
    wrapped = memvp(get_peft_model(make_tiny(name), config))
    wrapped_state, state = wrapped.trainable_state(), model.trainable_state()
    with torch.no_grad():
        for one, other in zip(wrapped_state.values(), state.values(), strict=True):
            one.copy_(other)
    torch.testing.assert_close(answer(wrapped, ids, features), wanted, **CLOSE)
    model.save_pretrained(tmp_path)
    again = MemVPModel.from_pretrained(make_tiny(name), tmp_path).eval()
    torch.testing.assert_close(answer(again, ids, features), wanted, **CLOSE)
    model.merge_lora()
    torch.testing.assert_close(answer(model, ids, features), wanted, **CLOSE)


def test_a_lora_that_was_off_stays_off(memvp, batch) -> None:
    ids, features = batch(images=4)
    model = memvp()
    model.add_lora(lora_config())
    on = answer(model, ids, features)
    model.language_model.model.layers[0].self_attn.q_proj.enable_adapters(False)
    wanted = answer(model, ids, features)
    assert not torch.allclose(on, wanted)
    with model.disable_adapter():
        pass
    assert torch.equal(answer(model, ids, features), wanted)


def test_a_broken_lora_is_not_merged(memvp) -> None:
    model = memvp()
    model.add_lora(lora_config())
    layer = model.language_model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora_A["default"].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        model.merge_lora()
    assert layer.get_base_layer().weight.isfinite().all()


def shared(kind: str) -> Any:
    """Methods that keep tensors for all layers in PEFT's wrapper, or share them between layers."""
    import peft

    own = {"VBLoRA": {"num_vectors": 8, "vector_length": 8, "topk": 2}}
    config = getattr(peft, f"{kind.removesuffix('_unsaved')}Config")
    unsaved = {"save_projection": False} if kind.endswith("_unsaved") else {}
    return config(r=2, target_modules=["q_proj"], **own.get(kind, {}), **unsaved)


@pytest.mark.parametrize("kind", ["Vera", "Vera_unsaved", "RandLora", "VBLoRA"])
def test_methods_that_share_tensors_come_back_in_pefts_wrapper(memvp, batch, tmp_path: Path, kind: str) -> None:
    from peft import PeftConfig, PeftModel, get_peft_model
    from peft.tuners.tuners_utils import BaseTuner

    if kind.startswith("Vera") and not hasattr(BaseTuner, "uses_shared_state"):
        pytest.skip("this PEFT draws VeRA's matrices from their key, file or not")

    def base() -> Any:
        return make_tiny(dtype=torch.float32)

    ids, features = batch(images=4)
    features = features.float()
    model = memvp(get_peft_model(base(), shared(kind)))
    with torch.no_grad():
        for name, parameter in model.trainable_state().items():
            if not name.startswith("prompt."):
                parameter.add_(0.3 * torch.rand_like(parameter))
    wanted = answer(model, ids, features)
    model.save_pretrained(tmp_path)
    folder = str(tmp_path / "lora")
    again = MemVPModel.from_pretrained(get_peft_model(base(), PeftConfig.from_pretrained(folder)), tmp_path).eval()
    assert torch.equal(answer(again, ids, features), wanted)
    plain = base()
    modules = list(plain.modules())
    with pytest.raises(ValueError, match=rf"the {kind.removesuffix('_unsaved')} in .* PeftConfig.from_pretrained\("):
        MemVPModel.from_pretrained(plain, tmp_path)
    assert list(plain.modules()) == modules
    assert all(parameter.requires_grad for parameter in plain.parameters())
    alone = PeftModel.from_pretrained(plain, folder).eval()
    with torch.no_grad():
        assert torch.equal(alone(ids).logits, model.unload()(ids).logits)
    assert not torch.equal(alone(ids).logits, base()(ids).logits)


@pytest.mark.parametrize("kind", ["PromptTuning", "PrefixTuning", "PromptEncoder", "AdaptionPrompt"])
def test_prompts_of_pefts_are_refused(memvp, batch, kind: str) -> None:
    """They used to be saved and not loaded, and stayed on in the disabled and in the merged model."""
    import peft

    sizes = {"adapter_len": 2, "adapter_layers": 1} if kind == "AdaptionPrompt" else {"num_virtual_tokens": 2}
    config = getattr(peft, f"{kind}Config")(task_type="CAUSAL_LM", **sizes)
    model = peft.get_peft_model(make_tiny(), config)
    with pytest.raises(ValueError, match=f"this PeftModel is a {kind}, which adapts no layer"):
        memvp(model)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
