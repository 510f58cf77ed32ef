"""Tower features against the tower's own modules, run by hand."""

from typing import Any

import pytest
import torch

from memvp_core.vision import FeatureSpec, tower_features


@pytest.fixture
def tower() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4
    )
    return CLIPVisionModel(config).eval()


def by_hand(tower: Any, pixels: torch.Tensor, *, num_layers: int) -> torch.Tensor:
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:num_layers]:
        hidden = layer(hidden, attention_mask=None)
    return hidden


@pytest.mark.parametrize(("layer", "num_layers"), [(-2, 2), (-1, 3), (1, 1), (0, 0)])
def test_layer(tower, layer: int, num_layers: int) -> None:
    pixels = torch.randn(2, 3, 8, 8)
    features = tower_features(tower, pixels, FeatureSpec(layer=layer))
    assert torch.equal(features, by_hand(tower, pixels, num_layers=num_layers)[:, 1:])


def test_tokens_and_norm(tower) -> None:
    pixels = torch.randn(2, 3, 8, 8)
    hidden = by_hand(tower, pixels, num_layers=2)
    assert torch.equal(tower_features(tower, pixels, FeatureSpec(tokens="all")), hidden)
    assert torch.equal(tower_features(tower, pixels, FeatureSpec(tokens="cls")), hidden[:, :1])
    normed = tower_features(tower, pixels, FeatureSpec(post_norm=True))
    assert torch.equal(normed, tower.post_layernorm(hidden)[:, 1:])


def test_wrong_requests_are_refused(tower) -> None:
    with pytest.raises(ValueError, match="tokens must be one of patches, cls, all"):
        FeatureSpec(tokens="words")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hidden states 0 to 3, there is no layer 4"):
        tower_features(tower, torch.randn(1, 3, 8, 8), FeatureSpec(layer=4))
