"""An adapter knows its language model: another shape is refused, other weights are warned about, a cast is not."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPModel
from memvp_core.saving.base_model import describe_base
from tests.core.tiny_models import make_tiny


def quietly(language_model: Any, path: Path) -> MemVPModel:
    """Load; any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return MemVPModel.from_pretrained(language_model, path)


def test_what_is_noted(memvp, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    noted = json.loads((tmp_path / "adapter_config.json").read_text())["base_model"]
    weights = noted.pop("weights")
    assert noted == {
        "model_type": "llama",
        "hidden_size": 16,
        "num_layers": 2,
        "vocab_size": 40,
        "dtype": "float64",
    }
    assert len(weights) == 16
    assert int(weights, 16) >= 0


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("llama", {"hidden_size": 32}, "a llama of width 32 with 2 layers"),
        ("llama", {"num_hidden_layers": 3}, "a llama of width 16 with 3 layers"),
        ("qwen3", {}, "a qwen3 of width 16 with 2 layers"),
        ("bart", {}, "a bart of width 16 with 2 layers"),
    ],
    ids=["width", "depth", "kind", "encoder_decoder"],
)
def test_another_shape_is_refused(memvp, tmp_path: Path, name: str, settings: dict[str, Any], found: str) -> None:
    memvp().save_pretrained(tmp_path)
    base = make_tiny(name, **settings)
    with pytest.raises(ValueError, match=rf"trained on a llama of width 16 with 2 layers, .* is {found}: load the one"):
        MemVPModel.from_pretrained(base, tmp_path)
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert not any(module._forward_hooks for module in base.modules())


def test_other_weights_of_the_same_shape_give_a_warning(memvp, llama, tmp_path: Path) -> None:
    base = llama()
    base.config._name_or_path = "someone/their-llama"
    memvp(base).save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"trained on other weights .* the language model it was trained on \(someone/"
    ):
        MemVPModel.from_pretrained(llama(seed=1), tmp_path)


def test_added_tokens_give_a_warning(memvp, llama, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"40 tokens, \w{16} then, 41 tokens, \w{16} now"):
        MemVPModel.from_pretrained(llama(vocab_size=41), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_same_weights_in_another_dtype_are_quiet(memvp, llama, tmp_path: Path, dtype: torch.dtype) -> None:
    memvp(llama().float()).save_pretrained(tmp_path)
    quietly(llama().to(dtype), tmp_path)


def test_weights_that_are_not_there_are_not_compared(memvp, llama, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    with torch.device("meta"):
        base = llama().to("meta")
    assert describe_base(base)["weights"] is None
    quietly(base, tmp_path)


def test_files_that_say_nothing_are_accepted(memvp, llama, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    del settings["base_model"]
    path.write_text(json.dumps(settings))
    quietly(llama(seed=1), tmp_path)


def test_a_lora_on_the_language_model_changes_nothing(memvp, llama) -> None:
    from peft import LoraConfig

    model = memvp()
    model.add_lora(LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]))
    assert describe_base(model.language_model) == describe_base(llama())
