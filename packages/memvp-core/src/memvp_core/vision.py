"""Image features from a vision tower: which layer, which tokens, which norm. Pixels come prepared."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

Tokens = Literal["patches", "cls", "all"]


@dataclass(frozen=True)
class FeatureSpec:
    """What to take from a CLIP-like tower."""

    layer: int = -2
    """Hidden state: 0 is the embeddings, -1 the last layer's output; -2 is LLaVA's and the paper's choice."""

    tokens: Tokens = "patches"
    """The patches, the leading class token, or both (class token first)."""

    post_norm: bool = False
    """Apply the tower's final norm, as the paper's released LLaMA checkpoints have it."""

    def __post_init__(self) -> None:
        """Refuse what is no token choice."""
        if self.tokens not in get_args(Tokens):
            raise ValueError(f"tokens must be one of {', '.join(get_args(Tokens))}; got {self.tokens!r}.")


def tower_features(
    tower: nn.Module, pixel_values: Float[Tensor, "B channels H W"], spec: FeatureSpec
) -> Float[Tensor, "B g c"]:
    """Features of a transformers `CLIPVisionModel`, in the tower's own mode and dtype, with gradients if any."""
    states: tuple[Tensor, ...] = tower(pixel_values=pixel_values, output_hidden_states=True).hidden_states
    if not -len(states) <= spec.layer < len(states):
        raise ValueError(f"the tower has hidden states 0 to {len(states) - 1}, there is no layer {spec.layer}.")
    features = states[spec.layer]
    if spec.post_norm:
        features = _final_norm(tower)(features)
    if spec.tokens == "all":
        return features
    return features[:, 1:] if spec.tokens == "patches" else features[:, :1]


def _final_norm(tower: nn.Module) -> Any:
    # transformers 4 keeps the parts of the tower one level deeper.
    inner = getattr(tower, "vision_model", tower)
    norm = getattr(inner, "post_layernorm", None)
    if norm is None:
        raise ValueError(f"{type(tower).__name__} has no post_layernorm: set post_norm to false.")
    return norm
