"""Weights of a CLIP ResNet from the state dicts of OpenAI's CLIP or of timm, whatever they call them."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memvp_core.vision.clip_resnet import ClipResNet, ClipResNetConfig

# Parts of names, replaced one after the other. timm (byobnet, `resnet50_clip`, `resnet101_clip`) on the left.
TIMM_TO_OPENAI = {
    "stem.conv1.conv.": "conv1.",
    "stem.conv1.bn.": "bn1.",
    "stem.conv2.conv.": "conv2.",
    "stem.conv2.bn.": "bn2.",
    "stem.conv3.conv.": "conv3.",
    "stem.conv3.bn.": "bn3.",
    "stages.0.": "layer1.",
    "stages.1.": "layer2.",
    "stages.2.": "layer3.",
    "stages.3.": "layer4.",
    "conv1_1x1.conv.": "conv1.",
    "conv1_1x1.bn.": "bn1.",
    "conv2_kxk.conv.": "conv2.",
    "conv2_kxk.bn.": "bn2.",
    "conv3_1x1.conv.": "conv3.",
    "conv3_1x1.bn.": "bn3.",
    "shortcut.conv.conv.": "downsample.0.",
    "shortcut.conv.bn.": "downsample.1.",
    "head.pos_embed": "attnpool.positional_embedding",
    "head.q.": "attnpool.q_proj.",
    "head.k.": "attnpool.k_proj.",
    "head.v.": "attnpool.v_proj.",
    "head.proj.": "attnpool.c_proj.",
}


def load_clip_resnet(state_dict: Mapping[str, Tensor]) -> ClipResNet:
    """A float32 tower in evaluation mode, its size read from the tensors.

    Names are OpenAI's, alone or in a whole CLIP model under `visual.`, or those of timm's `resnet50_clip` and
    `resnet101_clip`; of a whole model the text tower is left aside.
    """
    weights = openai_names(state_dict)
    tower = ClipResNet(_config_of(weights))
    try:
        names: Any = tower.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the tensors of the CLIP ResNet contradict each other: {error}") from error
    missing, unknown = names.missing_keys[:3], names.unexpected_keys[:3]
    if missing or unknown:
        raise ValueError(
            f"expected the {len(tower.state_dict())} tensors of a CLIP ResNet; missing: {missing or 'none'}, "
            f"unknown: {unknown or 'none'}; load the whole file of RN50 or RN101."
        )
    return tower.eval()


def openai_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the image tower under the names OpenAI gives them, without `visual.`."""
    visual = {name.removeprefix("visual."): tensor for name, tensor in state_dict.items() if name.startswith("visual.")}
    return {_openai_name(name): tensor for name, tensor in (visual or state_dict).items()}


def _openai_name(name: str) -> str:
    for theirs, ours in TIMM_TO_OPENAI.items():
        name = name.replace(theirs, ours)
    return name


def _config_of(weights: Mapping[str, Tensor]) -> ClipResNetConfig:
    needed = (
        "layer1.0.conv1.weight",
        "layer4.0.conv1.weight",
        "attnpool.c_proj.weight",
        "attnpool.positional_embedding",
    )
    absent = [name for name in needed if name not in weights]
    if absent:
        raise ValueError(
            "expected the state dict of a CLIP ResNet with its attention pool, in OpenAI's or timm's layout; "
            f"there is no {absent[0]}, but {', '.join(list(weights)[:3]) or 'nothing'}."
        )
    blocks = {tuple(name.split(".")[:2]) for name in weights if name.startswith("layer")}
    return ClipResNetConfig(
        depths=tuple(sum(stage == f"layer{number}" for stage, _ in blocks) for number in range(1, 5)),
        output_dim=len(weights["attnpool.c_proj.weight"]),
        width=len(weights["layer1.0.conv1.weight"]),
        image_size=ClipResNetConfig.patch_size * math.isqrt(len(weights["attnpool.positional_embedding"]) - 1),
    )
