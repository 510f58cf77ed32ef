"""Groups keep kinds of parameters and decay apart; one that nothing belongs to is refused."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import CLIPVisionConfig, CLIPVisionModel

from memvp_core import MemVPConfig, MemVPModel
from memvp_core.vision.tower import VisionTower
from memvp_train.config import ConfigError, GroupSettings, LoraSettings, ParameterGroups, StageConfig
from memvp_train.optim.optimizer import build_optimizer, check_groups, group_of, parameter_groups, set_learning_rates
from tests.core.tiny_models import make_tiny

LORA_GROUP = ParameterGroups(lora=GroupSettings(learning_rate=0.1))


def test_groups_part_lora_from_memory_and_matrices_from_vectors() -> None:
    trainable = {
        "language_model.layers.0.q_proj.lora_A.default.weight": torch.zeros(2, 3),
        "prompt.projector.0.weight": torch.zeros(4, 3),
        "prompt.projector.0.bias": torch.zeros(4),
    }
    stage = StageConfig(num_steps=1, learning_rate=1.0, groups=LORA_GROUP, weight_decay=0.5, lora=LoraSettings())
    groups = parameter_groups(trainable, stage=stage)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1.0, 0.0, 1),
        (1.0, 0.5, 1),
        (0.1, 0.5, 1),
    ]


def test_all_groups_follow_the_schedule_from_their_own_peak() -> None:
    parameters = {"prompt.a": torch.nn.Parameter(torch.zeros(2)), "lora_b": torch.nn.Parameter(torch.zeros(2))}
    stage = StageConfig(num_steps=1, learning_rate=1.0, groups=LORA_GROUP, lora=LoraSettings())
    optimizer = build_optimizer(parameter_groups(parameters, stage=stage), stage=stage)
    for factor in (0.5, 0.25):  # the second call must not build on the first
        assert set_learning_rates(optimizer.param_groups, factor=factor) == factor
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor, 0.1 * factor])


def _model() -> MemVPModel:
    """Everything that can train, at once: a projector, positions, scales, a LoRA, norms and adapters in the tower."""
    settings: dict[str, Any] = {
        "learn_scales": True,
        "retrieval_gate": True,
        "num_images": 2,
        "train_layer_norms": True,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    tower = VisionTower(CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)), adapter_size=2)
    config = MemVPConfig(vision_hidden_size=16, num_slots=5, **settings)
    model = MemVPModel(make_tiny("llama"), config, tower)
    model.add_lora(LoraConfig(r=2, target_modules=["q_proj"]))
    return model


def test_every_trained_parameter_of_a_model_has_its_group() -> None:
    names: dict[str, set[str]] = {}
    for name in _model().trainable_state():
        names.setdefault(group_of(name), set()).add(name)
    assert names.keys() == {field.name for field in fields(ParameterGroups)}
    assert names["scales"] == {"prompt.visual_scale", "prompt.retrieval_scale", "prompt.retrieval_gates"}
    assert names["positions"] == {"prompt.key_positions", "prompt.value_positions", "prompt.image_embedding"}
    assert all("lora_" in name for name in names["lora"])
    assert all("norm" in name for name in names["norms"])
    assert names["tower"] == {"vision_tower.adapters.keys", "vision_tower.adapters.values"}


def test_every_group_has_its_own_rate_and_decay() -> None:
    rates = {"projector": 0.1, "positions": 0.2, "scales": 0.3, "lora": 0.4, "norms": 0.5, "tower": 0.6}
    own = {name: GroupSettings(learning_rate=rate, weight_decay=rate / 10) for name, rate in rates.items()}
    trainable = _model().trainable_state()
    stage = StageConfig(num_steps=1, groups=ParameterGroups(**own), lora=LoraSettings())
    groups = parameter_groups(trainable, stage=stage)
    names = {id(parameter): name for name, parameter in trainable.items()}
    found = [(names.pop(id(parameter)), group) for group in groups for parameter in group["params"]]
    assert not names
    for name, group in found:
        rate = rates[group_of(name)]
        assert group["lr"] == rate
        assert group["weight_decay"] == (rate / 10 if trainable[name].ndim >= 2 else 0.0)


def test_settings_of_a_group_without_parameters_are_refused() -> None:
    stage = StageConfig(num_steps=1, groups=ParameterGroups(norms=GroupSettings(1e-3)))
    with pytest.raises(ConfigError, match=r"groups.norms is set but nothing .* trains .*: positions, projector\)"):
        check_groups(["prompt.projector.0.weight", "prompt.key_positions"], stage=stage)
    check_groups(["language_model.model.norm.weight"], stage=stage)
