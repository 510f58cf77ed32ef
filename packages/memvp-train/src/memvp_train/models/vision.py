"""Vision towers from settings: CLIP, SigLIP, DINOv2 and CLIP's ResNets, and what shape their features have.

A ResNet is named by OpenAI's name (RN50, RN101) where its weights are drawn, else by a folder or hub name with timm's
config.json (`timm/resnet101_clip.openai`), or by a safetensors file with OpenAI's or timm's tensors.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memvp_core.vision import TOWERS, FeatureSpec
from memvp_core.vision.clip_resnet import CLIP_RESNETS, ClipResNet, ClipResNetConfig
from memvp_core.vision.clip_resnet_weights import load_clip_resnet
from memvp_core.vision.tower import VisionTower
from memvp_data.images.preprocessing import PREPROCESSING
from memvp_train.config.models import VisionConfig
from memvp_train.models.pretrained import (
    ModelError,
    model_config,
    not_found,
    overridden,
    pretrained,
    raw_config,
    resolve_path,
    seeded,
)

_WHAT = "vision tower"
# Class in transformers by the model type of the tower; with and without the projection to the space shared with text.
_CLASSES = {
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "siglip_vision_model": ("SiglipVisionModel", None),
    "dinov2": ("Dinov2Model", None),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", None),
}
# DINOv2 stretches its positions to the image it is given, CLIP and SigLIP take one size only.
_ANY_SIZE = ("dinov2", "dinov2_with_registers", "clip_resnet")
_TIMM_RESNETS = {"resnet50_clip": "RN50", "resnet101_clip": "RN101"}
# What stem and stages of a ResNet divide the side of the image by, and the width after each in units of the stem's.
_RESNET_STRIDES, _RESNET_WIDTHS = (4, 4, 8, 16, 32), (1, 4, 8, 16, 32)


@dataclass(frozen=True)
class FeatureShape:
    """What a tower gives of one image."""

    num_rows: int
    """Rows."""
    width: int
    """Numbers per row."""


def feature_spec(vision: VisionConfig) -> FeatureSpec:
    """What memvp_core takes from the tower."""
    return FeatureSpec(
        layer=vision.layer,
        tokens=vision.tokens,
        post_norm=vision.post_norm,
        projection=vision.projection,
        grid=vision.grid,
    )


def build_tower(vision: VisionConfig, *, meta: bool = False) -> Any:
    """The vision tower, wholly frozen, fp32, in evaluation mode; `meta` builds it without memory for weights."""
    settings = tower_settings(vision)
    if isinstance(settings, ClipResNetConfig):
        tower = _clip_resnet(vision, settings=settings, meta=meta)
    else:
        tower = _transformers_tower(vision, settings=settings, meta=meta)
    return tower.requires_grad_(False)


def build_vision_tower(vision: VisionConfig, *, meta: bool = False) -> VisionTower:
    """The tower as part of a model that trains from pixels, with new adapters if the settings ask for them."""
    check_live(vision)
    return VisionTower(
        build_tower(vision, meta=meta),
        feature_spec(vision),
        adapter_size=vision.adapter_dim,
        adapter_dropout=vision.adapter_dropout,
    )


def tower_settings(vision: VisionConfig) -> Any:
    """The tower's own config, transformers' or a `ClipResNetConfig`, overrides applied; weights are not read."""
    path = vision.path
    if path in CLIP_RESNETS:
        if not vision.random_init:
            raise ModelError(
                f"vision.path {path!r} names a CLIP ResNet without weights; give a folder, a hub name such as "
                "timm/resnet101_clip.openai or a safetensors file, or set random_init"
            )
        return _resized(CLIP_RESNETS[path], vision=vision)
    if path.endswith(".safetensors"):
        return _resized(_resnet_from_file(path).config, vision=vision)
    raw = raw_config(path, what=_WHAT)
    if raw.get("architecture") in _TIMM_RESNETS:
        return _resized(CLIP_RESNETS[_TIMM_RESNETS[raw["architecture"]]], vision=vision)
    config = model_config(path, what=_WHAT)
    config = getattr(config, "vision_config", config)
    if config.model_type not in _CLASSES:
        known = ", ".join(TOWERS)
        raise ModelError(f"vision.path {path!r} is of type {config.model_type!r}; known vision towers are {known}")
    return overridden(config, vision.overrides, path=path)


def feature_shape(vision: VisionConfig) -> FeatureShape:
    """Rows and width of the features, by arithmetic on the configs alone; refuses what the tower cannot give."""
    settings = tower_settings(vision)
    size = _image_size(vision, settings=settings)
    num_states = 5 if isinstance(settings, ClipResNetConfig) else settings.num_hidden_layers + 1
    layers = feature_spec(vision).layers
    for layer in layers:
        if not -num_states <= layer < num_states:
            raise ModelError(f"vision.layer {layer}: the tower has hidden states 0 to {num_states - 1}")
    _check_parts(vision, settings=settings)
    shapes = [_shape_of(vision, settings=settings, layer=layer % num_states, size=size) for layer in layers]
    widths = sorted({shape.width for shape in shapes})
    if len(widths) > 1:
        raise ModelError(f"vision.layer {list(layers)}: these layers are {widths} wide; take layers of one width")
    return FeatureShape(sum(shape.num_rows for shape in shapes), widths[0])


def check_live(vision: VisionConfig) -> None:
    """Refuse what only stored features can have."""
    if vision.pool_side is not None:
        raise ModelError(
            f"vision.pool_side {vision.pool_side} averages features that are stored; with a live tower set vision.grid"
        )


def _image_size(vision: VisionConfig, *, settings: Any) -> int:
    if vision.preprocessing not in PREPROCESSING:
        known = ", ".join(PREPROCESSING)
        raise ModelError(f"vision.preprocessing must be one of {known}, got {vision.preprocessing!r}")
    size = PREPROCESSING[vision.preprocessing].size
    if settings.model_type not in _ANY_SIZE and size != settings.image_size:
        raise ModelError(
            f"vision.preprocessing {vision.preprocessing!r} makes images of {size} pixels, "
            f"the tower {vision.path!r} takes {settings.image_size}"
        )
    if size % settings.patch_size and settings.model_type == "clip_resnet":
        raise ModelError(f"images of {size} pixels do not divide by the {settings.patch_size} of a CLIP ResNet")
    return size


def _check_parts(vision: VisionConfig, *, settings: Any) -> None:
    """Tokens, norm, projection and pooling that this kind of tower has."""
    layout = TOWERS[settings.model_type]
    classes = _CLASSES.get(settings.model_type, ("", None))
    lacking = {
        f"tokens {vision.tokens!r}": vision.tokens != "patches" and not layout.class_token,
        "post_norm": vision.post_norm and layout.final_norm is None,
        "projection": vision.projection and classes[1] is None,
        "adapter_dim": vision.adapter_dim > 0 and settings.model_type == "clip_resnet",
    }
    for name, is_lacking in lacking.items():
        if is_lacking:
            raise ModelError(f"vision.{name} is not to be had of a tower of type {settings.model_type}; leave it out")
    if vision.pool_side is not None and len(feature_spec(vision).layers) > 1:
        raise ModelError("vision.pool_side goes with one layer; set vision.grid, which pools each by itself")


def _shape_of(vision: VisionConfig, *, settings: Any, layer: int, size: int) -> FeatureShape:
    if isinstance(settings, ClipResNetConfig):
        side, width = size // _RESNET_STRIDES[layer], _RESNET_WIDTHS[layer] * settings.width
    else:
        side = size // settings.patch_size
        width = settings.projection_dim if vision.projection else settings.hidden_size
    if vision.pool_side is not None and side % vision.pool_side:
        raise ModelError(f"vision.pool_side {vision.pool_side} must divide the tower's {side} patches per side")
    patches = (vision.grid or vision.pool_side or side) ** 2
    return FeatureShape({"patches": patches, "cls": 1, "all": patches + 1}[vision.tokens], width)


def _transformers_tower(vision: VisionConfig, *, settings: Any, meta: bool) -> nn.Module:
    import transformers

    plain, projecting = _CLASSES[settings.model_type]
    cls: Any = getattr(transformers, projecting if vision.projection and projecting else plain)
    if meta or vision.random_init:
        with torch.device("meta") if meta else seeded(vision.seed):
            return cls(settings).eval()
    return pretrained(cls, vision.path, settings=settings, dtype=torch.float32, what=_WHAT)


def _clip_resnet(vision: VisionConfig, *, settings: ClipResNetConfig, meta: bool) -> nn.Module:
    if meta or vision.random_init:
        with torch.device("meta") if meta else seeded(vision.seed):
            return ClipResNet(settings).eval()
    return _resnet_from_file(_weights_file(vision.path))


def _weights_file(path: str) -> str:
    from transformers.utils import cached_file

    if path.endswith(".safetensors"):
        return path
    try:
        return str(cached_file(resolve_path(path), "model.safetensors"))
    except (OSError, ValueError) as error:
        raise ModelError(not_found(_WHAT, path, error=error)) from error


def _resnet_from_file(path: str) -> ClipResNet:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_clip_resnet(load_file(Path(path)))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(not_found(_WHAT, path, error=error)) from error


def _resized(config: ClipResNetConfig, *, vision: VisionConfig) -> ClipResNetConfig:
    overrides = dict(vision.overrides or {})
    if overrides and not vision.random_init:
        raise ModelError(
            f"vision.overrides {sorted(overrides)} would not fit the weights of a CLIP ResNet; remove them"
        )
    unknown = sorted(set(overrides) - {"depths", "output_dim", "width", "image_size"})
    if unknown:
        raise ModelError(f"overrides: the config of {vision.path} has no field {unknown[0]!r}")
    if "depths" in overrides:
        overrides["depths"] = tuple(overrides["depths"])
    return replace(config, **overrides)
