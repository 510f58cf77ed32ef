"""Image features from a vision tower: which layers, which tokens, which norm. Pixels come prepared.

A tower is a frozen vision model of transformers (CLIP, SigLIP, DINOv2 with or without registers) or this package's
`ClipResNet`; how it is built is one row of `TOWERS`, what the papers take from it one row of `FEATURE_PRESETS`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Tokens = Literal["patches", "cls", "all"]


@dataclass(frozen=True)
class TowerLayout:
    """What has to be known of a kind of tower beyond its hidden states."""

    class_token: bool
    """A class token comes first; register tokens, if any, follow it (`num_register_tokens` of the tower's config)."""

    final_norm: str | None
    """Name of the norm after the last layer, which hidden states leave out."""


# By `config.model_type` of the tower. SigLIP 2 at a fixed size calls itself siglip_vision_model too.
TOWERS: dict[str, TowerLayout] = {
    "clip_vision_model": TowerLayout(class_token=True, final_norm="post_layernorm"),
    "siglip_vision_model": TowerLayout(class_token=False, final_norm="post_layernorm"),
    "dinov2": TowerLayout(class_token=True, final_norm="layernorm"),
    "dinov2_with_registers": TowerLayout(class_token=True, final_norm="layernorm"),
    "clip_resnet": TowerLayout(class_token=False, final_norm=None),
}


@dataclass(frozen=True)
class FeatureSpec:
    """What to take from a tower."""

    layer: int | tuple[int, ...] = -2
    """Hidden state: 0 is the embeddings, -1 the last layer's output; -2 is LLaVA's and the paper's choice. Several give
    their rows one after the other. A ClipResNet has its stem and four stages."""

    tokens: Tokens = "patches"
    """The patches, the leading class token, or both (class token first). Register tokens are never taken."""

    post_norm: bool = False
    """Apply the tower's final norm, as the paper's released LLaMA checkpoints have it."""

    projection: bool = False
    """Then project into the space CLIP shares with text, as `image_embeds`; needs a CLIPVisionModelWithProjection."""

    grid: int | None = None
    """Max-pool the patches to this many rows a side (adaptive), as VL-Adapter does from 7 x 7 to 6 x 6."""

    def __post_init__(self) -> None:
        """Refuse what no tower can give."""
        if self.tokens not in get_args(Tokens):
            raise ValueError(f"tokens must be one of {', '.join(get_args(Tokens))}; got {self.tokens!r}.")
        if not self.layers:
            raise ValueError("layer must name at least one hidden state, got none; -2 is the usual choice.")
        if self.grid is not None and (self.grid < 1 or self.tokens != "patches"):
            raise ValueError(
                f"grid pools patches to 1 x 1 or more; got {self.grid} for {self.tokens!r}, leave it at None."
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """`layer` as a tuple."""
        return (self.layer,) if isinstance(self.layer, int) else tuple(self.layer)


FEATURE_PRESETS: dict[str, FeatureSpec] = {
    # LLaVA (arXiv 2304.08485, 2310.03744) and visual instruction tuning in the MemVP paper.
    "llava": FeatureSpec(layer=-2),
    # MemVP's released LLaMA checkpoints: 23 of ViT-L/14's 24 blocks, then the norm meant for the last one.
    "memvp_scienceqa": FeatureSpec(layer=-2, post_norm=True),
    # "Global features" of MemVP's ablation are LaVIN's (arXiv 2305.15023): the class token after every fourth block.
    "global6": FeatureSpec(layer=(4, 8, 12, 16, 20, 24), tokens="cls"),
    # Video in MemVP and VL-Adapter: CLIP's image embedding, one row per frame.
    "video_cls": FeatureSpec(layer=-1, tokens="cls", post_norm=True, projection=True),
    # MemVP on BART and T5: the CLIP ResNet's last stage, 7 x 7 rows; VL-Adapter (arXiv 2112.06825) pools them to 6 x 6.
    "clip_resnet": FeatureSpec(layer=-1),
    "vl_adapter": FeatureSpec(layer=-1, grid=6),
}


def tower_features(
    tower: nn.Module, pixel_values: Float[Tensor, "B *frames channels H W"], spec: FeatureSpec
) -> Float[Tensor, "B g c"]:
    """Features of a tower in its own mode and dtype, with gradients if any; a video has the rows of all its frames."""
    if pixel_values.ndim == 5:
        rows = tower_features(tower, pixel_values.flatten(0, 1), spec)
        return rows.reshape(len(pixel_values), -1, rows.shape[-1])
    layout = _layout(tower, tokens=spec.tokens)
    states: tuple[Tensor, ...] = tower(pixel_values=pixel_values, output_hidden_states=True).hidden_states
    taken = [_taken(_state(states, layer), tower=tower, layout=layout, spec=spec) for layer in spec.layers]
    widths = sorted({rows.shape[-1] for rows in taken})
    if len(widths) > 1:
        raise ValueError(f"rows of layers {spec.layers} are {widths} wide; take layers of one width.")
    return torch.cat(taken, dim=1)


def _layout(tower: Any, *, tokens: Tokens) -> TowerLayout:
    kind = getattr(getattr(tower, "config", None), "model_type", None)
    if kind not in TOWERS:
        raise ValueError(
            f"expected a vision tower of type {', '.join(TOWERS)}, got {type(tower).__name__} of type {kind!r}; "
            "pass the vision part of a two-tower model, or add a row to memvp_core.vision.TOWERS."
        )
    if tokens != "patches" and not TOWERS[kind].class_token:
        raise ValueError(f"{type(tower).__name__} has no class token for tokens={tokens!r}; take 'patches'.")
    return TOWERS[kind]


def _state(states: tuple[Tensor, ...], layer: int) -> Tensor:
    if not -len(states) <= layer < len(states):
        raise ValueError(f"the tower has hidden states 0 to {len(states) - 1}, there is no layer {layer}.")
    return states[layer]


def _taken(state: Tensor, *, tower: Any, layout: TowerLayout, spec: FeatureSpec) -> Float[Tensor, "B g c"]:
    """The rows that a spec takes of one hidden state."""
    num_registers: int = getattr(tower.config, "num_register_tokens", 0)
    num_leading = int(layout.class_token) + num_registers
    cls, patches = state[:, : int(layout.class_token)], state[:, num_leading:]
    rows = {"patches": patches, "cls": cls}[spec.tokens] if spec.tokens != "all" else torch.cat([cls, patches], dim=1)
    if spec.post_norm:
        rows = _final_norm(tower, layout)(rows)
    if spec.projection:
        rows = _projection(tower)(rows)
    return rows if spec.grid is None else _pooled(rows, side=spec.grid)


def _final_norm(tower: Any, layout: TowerLayout) -> Any:
    # In transformers 4 and in towers with a projection the parts are one level deeper.
    inner = getattr(tower, "vision_model", tower)
    norm = getattr(inner, layout.final_norm, None) if layout.final_norm else None
    if norm is None:
        raise ValueError(f"{type(tower).__name__} has no {layout.final_norm or 'final norm'}: set post_norm to false.")
    return norm


def _projection(tower: Any) -> Any:
    projection = getattr(tower, "visual_projection", None)
    if projection is None:
        raise ValueError(
            f"{type(tower).__name__} has no visual_projection: load the tower as CLIPVisionModelWithProjection, "
            "or set projection to false."
        )
    return projection


def _pooled(rows: Float[Tensor, "B g c"], *, side: int) -> Float[Tensor, "B G c"]:
    own_side = math.isqrt(rows.shape[1])
    if own_side**2 != rows.shape[1]:
        raise ValueError(f"grid pools a square of patches, got {rows.shape[1]} rows; set grid to None.")
    square = rows.transpose(1, 2).reshape(len(rows), -1, own_side, own_side)
    return F.adaptive_max_pool2d(square, side).flatten(2).transpose(1, 2)
