"""LoRAs of every kind that PEFT makes: the active one is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPModel
from tests.core.test_merge import answer
from tests.core.tiny_models import make_tiny

# The norms of transformers round to float32 inside, and a LoRA that is loaded is held in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


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
