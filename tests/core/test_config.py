"""Settings: wrong ones are refused in one sentence; the counts are those of the paper and of the built models."""

from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, get_memvp_model

LLAVA_STYLE = MemVPConfig(
    vision_hidden_size=1024, num_slots=576, projector_hidden_sizes=(4096,), projector_activation="gelu"
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_hidden_size": 0}, "vision_hidden_size must be a positive whole number, got 0"),
        ({"num_slots": 2.5}, "num_slots must be a positive whole number, got 2.5"),
        ({"num_slots": True}, "num_slots must be a positive whole number, got True"),
        ({"projector_hidden_sizes": [8, -1]}, "every entry of projector_hidden_sizes"),
        ({"visual_scale": float("nan")}, "visual_scale must be a finite number"),
        ({"retrieval_scale": "0.1"}, "retrieval_scale must be a finite number or \"auto\", got '0.1'"),
        ({"memory_dropout": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"learn_scales": "yes"}, "learn_scales must be true or false"),
        ({"insert_in": "nowhere"}, "insert_in must be one of both, keys, values, none; got 'nowhere'"),
        ({"form": "fused"}, "form must be one of auto, direct, split, factored, reference"),
        ({"position_mode": "concat", "insert_in": "keys"}, "leaves image rows without a key or a value"),
        ({"position_mode": "concat", "padded_rows": "masked"}, 'padded_rows "masked" has no meaning'),
        (
            {"insert_in": "none", "padded_rows": "masked"},
            'no meaning with insert_in "none", where an image has no rows',
        ),
        ({"retrieval_scale": "large"}, "retrieval_scale must be a finite number or \"auto\", got 'large'"),
        ({"retrieval_gate": 1}, "retrieval_gate must be true or false"),
        ({"retrieval_gate": True, "insert_in": "keys"}, "retrieval_gate with insert_in 'keys' would never train"),
        ({"retrieval_scale": "auto", "learn_scales": True}, "and learn_scales learns it: take one of the two"),
        ({"retrieval_scale": "auto", "retrieval_gate": True}, "and retrieval_gate learns it: take one of the two"),
        ({"layers_to_transform": []}, "layers_to_transform must be None or different layer numbers"),
        ({"layers_to_transform": [1, 1]}, "layers_to_transform must be None or different layer numbers"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemVPConfig(**{"vision_hidden_size": 8} | settings)


def test_misspelt_and_missing_settings_are_named() -> None:
    with pytest.raises(ValueError, match="no setting num_slot; it has: vision_hidden_size, num_slots"):
        MemVPConfig.from_dict({"vision_hidden_size": 8, "num_slot": 3})
    with pytest.raises(ValueError, match="needs vision_hidden_size"):
        MemVPConfig.from_dict({"num_slots": 3})


def test_form_is_read_under_its_former_name() -> None:
    saved = {name: value for name, value in MemVPConfig(vision_hidden_size=8).to_dict().items() if name != "form"}
    assert MemVPConfig.from_dict({**saved, "method": "split"}) == MemVPConfig(vision_hidden_size=8, form="split")


@pytest.mark.parametrize(
    ("config", "hidden_size", "num_layers", "count"),
    [
        # method.md 4.1: 2,621,440 + 659,584 and 4,096,000 + 791,680, the tower's adapters and the dead rows left out
        (MemVPConfig(vision_hidden_size=1024), 4096, 32, 3_281_024),
        (MemVPConfig(vision_hidden_size=1024, num_slots=400), 5120, 40, 4_887_680),
        (LLAVA_STYLE, 4096, 32, 25_698_304),
    ],
    ids=["paper_7b", "paper_13b", "llava_7b"],
)
def test_counts_of_the_paper(config: MemVPConfig, hidden_size: int, num_layers: int, count: int) -> None:
    assert config.num_parameters(hidden_size=hidden_size, num_layers=num_layers) == count


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_position_embedding": False, "learn_scales": True},
        {"share_position_embedding": False, "layers_to_transform": [1]},
        {"projector_hidden_sizes": [], "projector_bias": False},
        {"retrieval_gate": True},
        {"retrieval_gate": True, "learn_scales": True, "layers_to_transform": [0]},
    ],
)
def test_counts_equal_the_built_model(memvp, settings: dict[str, Any]) -> None:
    model = memvp(**settings)
    wanted = model.memvp_config.num_parameters(hidden_size=16, num_layers=2)
    assert model.num_trainable_parameters() == wanted


def test_seven_billion_on_the_meta_device(capsys: pytest.CaptureFixture[str]) -> None:
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        base = LlamaForCausalLM(LlamaConfig()).to(torch.bfloat16)
    model = get_memvp_model(base, LLAVA_STYLE)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model.add_lora(LoraConfig(r=128, lora_alpha=256, target_modules=targets))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.num_trainable_parameters() == 345_513_984
    model.print_trainable_parameters()
    assert "trainable params: 345,513,984 || all params: 7,083,929,600" in capsys.readouterr().out
