"""Towers from settings: every kind is built, drawn or loaded, and its features have the shape that arithmetic says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from memvp_core.vision import TOWERS, tower_features
from memvp_core.vision.clip_resnet import ClipResNet, ClipResNetConfig
from memvp_core.vision.clip_resnet_weights import TIMM_TO_OPENAI
from memvp_data.images.preprocessing import PREPROCESSING
from memvp_train.config import ConfigError, VisionConfig
from memvp_train.features.extract import image_features
from memvp_train.models.pretrained import ModelError
from memvp_train.models.vision import build_tower, build_vision_tower, feature_shape, feature_spec

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 96, "patch_size": 16}
KINDS = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip_vision_model": "SiglipVisionModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
}
RESNET = ClipResNetConfig(depths=(1, 1, 1, 1), output_dim=8, width=4, image_size=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny one of every kind, and a whole CLIP model, whose vision part is taken."""
    root = tmp_path_factory.mktemp("towers")
    for name, cls in KINDS.items():
        kind: Any = getattr(transformers, cls)
        own = {"mlp_ratio": 2} if name.startswith("dinov2") else {"intermediate_size": 24}
        own |= {"projection_dim": 6} if name.startswith("clip") else {}
        torch.manual_seed(0)
        kind(kind.config_class(**SIZES, **own)).save_pretrained(root / name)
    vision = {**SIZES, "intermediate_size": 24}
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = transformers.CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 30}, projection_dim=6)
    transformers.CLIPModel(both).save_pretrained(root / "clip")
    torch.manual_seed(0)
    weights = ClipResNet(RESNET).state_dict()
    save_file(dict(weights), root / "resnet.safetensors")
    (root / "timm").mkdir()
    save_file({_timm_name(name): tensor for name, tensor in weights.items()}, root / "timm" / "model.safetensors")
    return root


def _timm_name(name: str) -> str:
    in_block = name.startswith("layer")
    for timm, openai in TIMM_TO_OPENAI.items():
        # Stem and blocks have layers of the same names.
        if timm.startswith(("stem", "conv")) and timm.startswith("stem") == in_block:
            continue
        name = name.replace(openai, timm)
    return name


def vision(path: Path | str, **changes: Any) -> VisionConfig:
    return VisionConfig(**{"path": str(path), "preprocessing": "toyworld_96", **changes})


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in KINDS},
    "vision part of a whole CLIP": ("clip", {}),
    "all tokens": ("clip_vision_model", {"tokens": "all"}),
    "class tokens of layers": ("dinov2_with_registers", {"layer": (1, 2, -1), "tokens": "cls"}),
    "two layers pooled": ("siglip_vision_model", {"layer": (0, 3), "grid": 4}),
    "averaged": ("dinov2", {"pool_side": 2}),
    "as frames of videos": (
        "clip_vision_model", {"layer": -1, "tokens": "cls", "post_norm": True, "projection": True},
    ),
    "DINOv2 at another size": ("dinov2", {"preprocessing": "clip_224", "layer": -1, "post_norm": True}),
    "ResNet": ("resnet.safetensors", {"layer": -1}),
    "ResNet pooled": ("resnet.safetensors", {"layer": -1, "grid": 2}),
    "ResNet's second stage": ("resnet.safetensors", {"layer": 2}),
    "ResNet's stem": ("resnet.safetensors", {"layer": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_features_have_the_shape_that_arithmetic_says(folder: Path, name: str) -> None:
    path, changes = CASES[name]
    settings = vision(folder / path, **changes)
    size = PREPROCESSING[settings.preprocessing].size
    tower = build_tower(settings)
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    found = image_features(tower, torch.randn(2, 3, size, size), vision=settings)
    shape = feature_shape(settings)
    assert tuple(found.shape) == (2, shape.num_rows, shape.width)
    assert torch.isfinite(found).all()


def test_the_table_of_core_is_covered() -> None:
    assert {*KINDS, "clip_resnet"} == set(TOWERS)


@pytest.mark.parametrize("name", [*KINDS, "resnet.safetensors"])
def test_weights_are_those_of_the_file(folder: Path, name: str) -> None:
    pixels = torch.randn(1, 3, 96, 96)
    found = tower_features(build_tower(vision(folder / name, layer=-1)), pixels, feature_spec(vision("x", layer=-1)))
    if name == "resnet.safetensors":
        torch.manual_seed(0)
        tower: Any = ClipResNet(RESNET)
    else:
        tower = getattr(transformers, KINDS[name]).from_pretrained(folder / name)
    with torch.no_grad():
        expected = tower_features(tower.eval(), pixels, feature_spec(vision("x", layer=-1)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_timms_layout_of_a_resnet_is_read(folder: Path) -> None:
    pixels = torch.randn(1, 3, 96, 96)
    spec = feature_spec(vision("x", layer=-1))
    (folder / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet50_clip", "num_classes": 8}))
    one, other = (
        tower_features(build_tower(vision(folder / name, layer=-1)), pixels, spec)
        for name in ("timm", "resnet.safetensors")
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", [*KINDS, "RN50"])
def test_drawn_towers_are_those_of_the_seed(folder: Path, name: str) -> None:
    path = name if name == "RN50" else folder / name
    small: dict[str, Any] = {"depths": [1, 1, 1, 1], "width": 8} if name == "RN50" else {"num_hidden_layers": 2}
    settings = vision(path, random_init=True, seed=3, layer=-1, overrides=small)
    first, again = build_tower(settings).state_dict(), build_tower(settings).state_dict()
    other = build_tower(replace(settings, seed=4)).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    meta = build_tower(settings, meta=True).state_dict()
    assert {key: value.shape for key, value in meta.items()} == {key: value.shape for key, value in first.items()}


def test_resnet_101_of_the_papers_gives_49_rows_or_36() -> None:
    settings = VisionConfig("RN101", preprocessing="clip_squash_224", layer=-1, random_init=True)
    assert (feature_shape(settings).num_rows, feature_shape(settings).width) == (49, 2048)
    assert feature_shape(replace(settings, grid=6)).num_rows == 36


def test_a_live_tower_has_new_adapters_and_nothing_else_that_trains(folder: Path) -> None:
    tower = build_vision_tower(vision(folder / "clip_vision_model", adapter_dim=5, adapter_dropout=0.2))
    trained = {name: tuple(value.shape) for name, value in tower.named_parameters() if value.requires_grad}
    assert trained == {"adapters.keys": (2, 5, 16), "adapters.values": (2, 5, 16)}
    assert tower.adapter_dropout == 0.2


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such layer": ("clip_vision_model", {"layer": 4}, r"vision.layer 4: the tower has hidden states 0 to 3"),
    "another size": ("clip_vision_model", {"preprocessing": "clip_224"}, "makes images of 224 pixels, .* takes 96"),
    "unknown preprocessing": ("dinov2", {"preprocessing": "clip"}, "vision.preprocessing must be one of clip_224,"),
    "no class token": ("siglip_vision_model", {"tokens": "cls"}, "vision.tokens 'cls' is not to be had of a tower"),
    "no projection": ("dinov2", {"projection": True}, "vision.projection is not to be had"),
    "no norm": ("resnet.safetensors", {"post_norm": True}, "vision.post_norm is not to be had"),
    "adapters in a ResNet": ("resnet.safetensors", {"adapter_dim": 4}, "vision.adapter_dim is not to be had"),
    "layers of several widths": ("resnet.safetensors", {"layer": (3, 4)}, r"are \[64, 128\] wide"),
    "averaging that does not divide": ("dinov2", {"pool_side": 4}, "must divide the tower's 6 patches per side"),
    "no model": ("nowhere", {}, "cannot be loaded"),
    "no such field": ("dinov2", {"overrides": {"depth": 3}}, "has no field 'depth'"),
    "a ResNet of another size": ("resnet.safetensors", {"overrides": {"width": 8}}, "would not fit the weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_tower_cannot_give_is_refused_in_a_sentence(folder: Path, name: str) -> None:
    path, changes, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence):
        feature_shape(vision(folder / path, **changes))


def test_other_things_that_cannot_be(folder: Path) -> None:
    with pytest.raises(ModelError, match="'RN50' names a CLIP ResNet without weights"):
        build_tower(vision("RN50"))
    transformers.BartConfig().save_pretrained(folder / "bart")
    with pytest.raises(ModelError, match="is of type 'bart'; known vision towers are clip_vision_model"):
        build_tower(vision(folder / "bart"))
    with pytest.raises(ModelError, match=r"with a live tower set vision\.grid"):
        build_vision_tower(vision(folder / "dinov2", pool_side=2))
    for changes in ({"grid": 2, "tokens": "all"}, {"grid": 2, "pool_side": 2}, {"layer": ()}, {"adapter_dim": -1}):
        with pytest.raises(ConfigError):
            vision(folder / "dinov2", **changes)
