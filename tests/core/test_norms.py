"""Norms that train with the memory: saved with the adapter, put back with it, and gone when it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memvp_core import MemVPModel
from memvp_core.files import read_tensors
from tests.core.tiny_models import ENCODER_DECODERS, make_tiny

ARCHITECTURES = ["llama", "bart", "t5", "llava"]
# Per architecture: norms of both stacks, biases where there are any; of LLaVA those of its language model alone.
NUM_NORMS = {"llama": 2 * 2 + 1, "bart": 2 * (2 * 2 + 3 * 2 + 2), "t5": 2 * 2 + 1 + 2 * 3 + 1, "llava": 2 * 2 + 1}


def make_trained(memvp: Any, base: Any, **settings: Any) -> MemVPModel:
    """Norms that are not what the model came with."""
    model = memvp(base, train_layer_norms=True, **settings)
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in model.trained_norms.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def lora_config(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **settings)


def inputs(name: str, ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids} | ({"labels": ids} if name in ENCODER_DECODERS else {})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trip(memvp, batch, tmp_path: Path, name: str) -> None:
    ids, features = batch(images=4)
    model = make_trained(memvp, make_tiny(name))
    assert len(model.trained_norms.parameters) == NUM_NORMS[name]
    model.save_pretrained(tmp_path)
    saved, _ = read_tensors(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == model.trainable_state().keys()
    again = MemVPModel.from_pretrained(make_tiny(name), tmp_path).eval()
    assert again.trainable_state().keys() == model.trainable_state().keys()
    wanted = model(**inputs(name, ids), visual_features=features).logits
    assert torch.equal(again(**inputs(name, ids), visual_features=features).logits, wanted)


@pytest.mark.parametrize("loaded", [False, True], ids=["trained", "loaded"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_disabled_and_unloaded_model_is_the_base_bit_for_bit(
    memvp, batch, tmp_path: Path, name: str, loaded: bool
) -> None:
    ids, features = batch(images=4)
    model = make_trained(memvp, make_tiny(name))
    if loaded:
        model.save_pretrained(tmp_path)
        model = MemVPModel.from_pretrained(make_tiny(name), tmp_path).eval()
    # The same requires_grad state, or another attention kernel may be chosen (T5).
    base = make_tiny(name).requires_grad_(False)
    before = base(**inputs(name, ids)).logits
    after = model(**inputs(name, ids), visual_features=features).logits
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**inputs(name, ids), visual_features=features).logits, before)
    assert torch.equal(model(**inputs(name, ids), visual_features=features).logits, after)
    unloaded = model.unload().requires_grad_(False)
    assert torch.equal(unloaded(**inputs(name, ids)).logits, before)
    for key, value in base.state_dict().items():
        assert torch.equal(unloaded.state_dict()[key], value), key


def test_names_are_the_same_with_and_without_peft(memvp, llama, batch, tmp_path: Path) -> None:
    from peft import get_peft_model

    torch.manual_seed(3)
    wrapped = make_trained(memvp, get_peft_model(llama(), lora_config()))
    injected = memvp(train_layer_norms=True)
    injected.add_lora(lora_config())
    for folder, model in (("wrapped", wrapped), ("injected", injected)):
        model.save_pretrained(tmp_path / folder)
    names = [
        read_tensors(tmp_path / folder / "adapter_model.safetensors")[0].keys() for folder in ("wrapped", "injected")
    ]
    assert names[0] == names[1]
    assert "language_model.model.norm.weight" in names[0]
    ids, features = batch(images=4)
    again = MemVPModel.from_pretrained(llama(), tmp_path / "wrapped").eval()
    wanted = wrapped(ids, visual_features=features).logits
    assert torch.equal(again(ids, visual_features=features).logits, wanted)


def test_norms_keep_training_when_a_lora_is_added(memvp, llama, tmp_path: Path) -> None:
    """PEFT freezes all that is not its own."""
    model = memvp(train_layer_norms=True)
    model.add_lora(lora_config())
    model.save_pretrained(tmp_path)
    again = MemVPModel.from_pretrained(llama(), tmp_path)
    for one in (model, again):
        assert all(parameter.requires_grad for parameter in one.trained_norms.parameters.values())
        assert any("lora_" in name for name in one.trainable_state())


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "peft_model"])
def test_given_norms_replace_the_models_own(memvp, llama, tmp_path: Path, wrapped: bool) -> None:
    from peft import get_peft_model

    model = memvp(get_peft_model(llama(), lora_config()) if wrapped else llama(), train_layer_norms=True)
    state = {name: value.detach() + 1.0 for name, value in model.trainable_state().items()}
    model.save_pretrained(tmp_path, state=state)
    again = MemVPModel.from_pretrained(llama(), tmp_path)
    for name, value in again.trainable_state().items():
        own = name if name in state else name.replace("language_model.", "language_model.base_model.model.", 1)
        assert torch.equal(value, state[own]), name


def test_adapter_without_norms_does_not_fill_a_model_that_trains_them(memvp, llama, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"language_model\.model\.layers\.0\.input_layernorm\.weight is missing"):
        memvp(train_layer_norms=True).load_adapter(tmp_path)


def test_weights_that_are_elsewhere_must_be_given(memvp, llama, tmp_path: Path) -> None:
    model = memvp(llama().to("meta"), train_layer_norms=True)
    with pytest.raises(ValueError, match=r"has no values here .* save_pretrained\(path, state=\.\.\.\)"):
        model.save_pretrained(tmp_path)
    state = {name: torch.ones(value.shape) for name, value in model.trainable_state().items()}
    model.save_pretrained(tmp_path, state=state)
    again = MemVPModel.from_pretrained(llama(), tmp_path)
    assert all(torch.equal(value, torch.ones_like(value)) for value in again.trainable_state().values())
