"""A model that the table does not know is shown a row that works as it stands; a row that does not changes nothing."""

import re
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from memvp_core import MemVPConfig, get_memvp_model
from memvp_core.backbones import BACKBONES, FFNPaths, FFNSite

CONFIG = MemVPConfig(vision_hidden_size=4, num_slots=3)
_HIDDEN = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 40, "pad_token_id": 0}
_GATED = {**_HIDDEN, "intermediate_size": 24, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_STACK = {"attention_heads": 2, "ffn_dim": 24, "layers": 2}
UNKNOWN: dict[str, dict[str, Any]] = {
    "falcon": _HIDDEN,
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": 40},
    "bloom": {"hidden_size": 16, "n_head": 2, "n_layer": 2, "vocab_size": 40},
    "phi": {**_HIDDEN, "intermediate_size": 24},
    "starcoder2": _GATED,
    "gptj": {"n_embd": 16, "n_head": 2, "n_layer": 2, "rotary_dim": 4, "vocab_size": 40},
    "glm4": {**_GATED, "head_dim": 8},
    "mbart": {
        "d_model": 16,
        "vocab_size": 40,
        **{f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in _STACK.items()},
    },
}


def make_unknown(model_type: str) -> Any:
    config = AutoConfig.for_model(model_type, **UNKNOWN[model_type])
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(0)
    return kind.from_config(config)


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_the_row_that_is_shown_works_when_pasted(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_unknown(model_type)
    with pytest.raises(ValueError, match=f"no FFN is known for model type '{model_type}'") as shown:
        get_memvp_model(model, CONFIG)
    row = re.search(r"= (\{.*\}), or pass", str(shown.value))
    assert row is not None
    monkeypatch.setitem(BACKBONES, model_type, eval(row[1], {"FFNPaths": FFNPaths}))  # noqa: S307 - as it is pasted
    with_memory = get_memvp_model(model, CONFIG).train()
    ids = torch.arange(3, 9)[None]
    with_memory(input_ids=ids, labels=ids, visual_features=torch.randn(1, 2, 4)).loss.backward()
    assert len(with_memory.injection.sites) == 2
    assert all(value.grad is not None and value.grad.any() for value in with_memory.trainable_state().values())


def test_a_site_that_is_missing_leaves_no_hook_on_those_before_it() -> None:
    model = make_unknown("falcon")
    sites = [
        FFNSite(layer, f"transformer.h.{layer}.mlp", f"transformer.h.{layer}.mlp", f"transformer.h.{layer}.mlp.{name}")
        for layer, name in enumerate(("act", "absent"))
    ]
    with pytest.raises(AttributeError, match="absent"):
        get_memvp_model(model, CONFIG, sites=sites)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    get_memvp_model(model, CONFIG, sites=sites[:1])


def test_a_row_that_does_not_fit_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_unknown("falcon")
    model.get_input_embeddings().requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    monkeypatch.setitem(BACKBONES, "falcon", {"decoder": FFNPaths("h.*.mlp", activation="act_fn")})
    with pytest.raises((AttributeError, ValueError), match="act_fn"):
        get_memvp_model(model, CONFIG)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
