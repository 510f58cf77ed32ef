"""A merged LoRA: the same answers from plain weights, the memory beside them, and nothing to mistake for an adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPModel
from tests.core.tiny_models import make_tiny

# The FFN's own modules among them: there PEFT's layers carry the memory's hooks.
TARGETS = {
    "llama": ["q_proj", "gate_proj", "down_proj"],
    "bart": ["q_proj", "fc1", "fc2"],
    "t5": ["q", "wi", "wo"],
    "gpt2": ["c_attn", "c_fc"],
}


def make_with_lora(memvp: Any, name: str, *, wrapped: bool, **settings: Any) -> MemVPModel:
    from peft import LoraConfig, get_peft_model

    base = make_tiny(name)
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=TARGETS[name], init_lora_weights=False, fan_in_fan_out=name == "gpt2"
    )
    torch.manual_seed(3)
    model = memvp(get_peft_model(base, config) if wrapped else base, **settings)
    if not wrapped:
        model.add_lora(config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            # PEFT makes them in float32.
            parameter.data = parameter.data.double()
    return model.eval()


def answer(model: MemVPModel, ids: Any, features: Any) -> Any:
    more = {"labels": ids} if model.config.is_encoder_decoder else {}
    return model(ids, visual_features=features, **more).logits


@pytest.mark.parametrize("wrapped", [False, True], ids=["injected", "peft_model"])
@pytest.mark.parametrize("name", TARGETS)
def test_logits_are_those_of_the_unmerged_model(memvp, batch, name: str, wrapped: bool) -> None:
    ids, features = batch(images=4)
    model = make_with_lora(memvp, name, wrapped=wrapped)
    # Beside the memory, not beside its remains: without images the answers are others.
    wanted, image_free = answer(model, ids, features), answer(model, ids, None)
    base = make_tiny(name)
    model.merge_lora()
    # The norms of transformers round to float32 inside.
    torch.testing.assert_close(answer(model, ids, features), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(answer(model, ids, None), image_free, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(wanted, image_free)
    assert model.language_model.state_dict().keys() == base.state_dict().keys()
    assert [type(module) for module in model.language_model.modules()] == [type(module) for module in base.modules()]
    assert not hasattr(model.language_model, "peft_config")
    assert all(name.startswith("prompt.") for name in model.trainable_state())


def test_merged_model_unloads_to_the_merged_language_model(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    model = make_with_lora(memvp, "llama", wrapped=False, no_image="base")
    merged_alone = model(ids).logits
    model.merge_lora()
    assert not torch.allclose(model(ids, visual_features=features).logits, merged_alone)
    unloaded = model.unload()
    torch.testing.assert_close(unloaded(ids).logits, merged_alone, rtol=1e-6, atol=1e-6)
    assert not any(module._forward_hooks for module in unloaded.modules())
    assert not torch.allclose(merged_alone, llama()(ids).logits)


def test_trained_norms_outlive_the_merge(memvp, batch) -> None:
    ids, features = batch(images=4)
    model = make_with_lora(memvp, "llama", wrapped=True, train_layer_norms=True)
    with torch.no_grad():
        for parameter in model.trained_norms.parameters.values():
            parameter.add_(0.3)
    wanted = answer(model, ids, features)
    model.merge_lora()
    torch.testing.assert_close(answer(model, ids, features), wanted, rtol=1e-6, atol=1e-6)
    assert all(parameter.requires_grad for parameter in model.trained_norms.parameters.values())


def test_memory_trains_on_after_the_merge_with_checkpointing(memvp, batch) -> None:
    ids, features = batch(images=4)
    model = make_with_lora(memvp, "llama", wrapped=True).train()
    model.gradient_checkpointing_enable()
    model(ids, labels=ids, visual_features=features).loss.backward()
    wanted = model.prompt.key_positions.grad.clone()
    model.zero_grad()
    model.merge_lora()
    model(ids, labels=ids, visual_features=features).loss.backward()
    torch.testing.assert_close(model.prompt.key_positions.grad, wanted, rtol=1e-5, atol=1e-8)


def test_merged_model_is_not_saved_as_an_adapter(memvp, batch, tmp_path: Path) -> None:
    model = make_with_lora(memvp, "llama", wrapped=False)
    model.merge_lora()
    with pytest.raises(ValueError, match=r"save the adapter before merge_lora\(\)"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    with pytest.raises(ValueError, match="no base model left to show"), model.disable_adapter():
        pass


def test_the_way_that_works(memvp, llama, batch, tmp_path: Path) -> None:
    ids, features = batch(images=4)
    model = make_with_lora(memvp, "llama", wrapped=False)
    model.save_pretrained(tmp_path)
    model.merge_lora()
    again = MemVPModel.from_pretrained(llama(), tmp_path).eval()
    again.merge_lora()
    # The LoRA is saved as it is held; PEFT holds it in float32 on a float64 model that it is loaded into.
    torch.testing.assert_close(answer(again, ids, features), answer(model, ids, features), rtol=1e-5, atol=1e-5)


def test_nothing_to_merge(memvp) -> None:
    with pytest.raises(ValueError, match="there is no LoRA to merge"):
        memvp().merge_lora()


def test_copies_of_whole_modules_are_merged_too(memvp, batch) -> None:
    from peft import LoraConfig, get_peft_model

    ids, features = batch(images=4)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = memvp(get_peft_model(make_tiny(), config))
    with torch.no_grad():
        for name, parameter in model.trainable_state().items():
            if "lm_head" in name:
                parameter.mul_(1.5)
    wanted = answer(model, ids, features)
    model.merge_lora()
    torch.testing.assert_close(answer(model, ids, features), wanted, rtol=1e-6, atol=1e-6)


def test_lora_on_a_shared_embedding_is_not_merged(memvp) -> None:
    from peft import LoraConfig

    model = memvp(make_tiny("llama", tie_word_embeddings=True))
    model.add_lora(LoraConfig(r=2, target_modules=["embed_tokens"]))
    with pytest.raises(ValueError, match="an embedding that input and output share"):
        model.merge_lora()


def test_weights_that_are_elsewhere_are_not_merged(memvp, llama) -> None:
    from peft import LoraConfig

    model = memvp(llama().to("meta"))
    model.add_lora(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="cannot be merged under ZeRO-3 or on the meta device"):
        model.merge_lora()
    assert model.injection.sites
