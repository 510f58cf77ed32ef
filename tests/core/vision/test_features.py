"""Tower features against the towers' own modules, run by hand, and the presets on towers of the published sizes."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from memvp_core.vision import FEATURE_PRESETS, FeatureSpec, tower_features
from memvp_core.vision.clip_resnet import CLIP_RESNETS, ClipResNet, ClipResNetConfig

SIZES = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
NUM_REGISTERS = 2


def make_clip(*, projection: bool = False) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(**SIZES, intermediate_size=12, projection_dim=5)
    return (CLIPVisionModelWithProjection if projection else CLIPVisionModel)(config)


def make_siglip() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**SIZES, intermediate_size=12))


def make_dinov2() -> Any:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2))


def make_dinov2_with_registers() -> Any:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=NUM_REGISTERS))


def make_clip_with_projection() -> Any:
    return make_clip(projection=True)


MAKERS = {
    "clip": make_clip,
    "clip with projection": make_clip_with_projection,
    "siglip": make_siglip,
    "dinov2": make_dinov2,
    "dinov2 with registers": make_dinov2_with_registers,
}
NUM_LEADING = {"siglip": 0, "dinov2 with registers": 1 + NUM_REGISTERS}


def make_tower(kind: str) -> Any:
    """Random, in evaluation mode; norms and tokens too, whose initial ones and zeros would hide mistakes."""
    torch.manual_seed(0)
    tower = MAKERS[kind]().eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return tower


def by_hand(tower: Any, pixels: torch.Tensor, *, num_layers: int) -> torch.Tensor:
    """The residual stream after some layers, all tokens."""
    tower = getattr(tower, "vision_model", tower)
    hidden = tower.embeddings(pixels)
    if hasattr(tower, "pre_layrnorm"):
        hidden = tower.pre_layrnorm(hidden)
    layers = tower.encoder.layers if hasattr(tower.encoder, "layers") else tower.encoder.layer
    for layer in layers[:num_layers]:
        hidden = layer(hidden, attention_mask=None) if "Dinov2" not in type(tower).__name__ else layer(hidden)
    return hidden


def norm_of(tower: Any) -> Any:
    tower = getattr(tower, "vision_model", tower)
    return tower.layernorm if hasattr(tower, "layernorm") else tower.post_layernorm


@pytest.mark.parametrize(("layer", "num_layers"), [(-2, 2), (-1, 3), (1, 1), (0, 0)])
@pytest.mark.parametrize("kind", MAKERS)
def test_layer(kind: str, layer: int, num_layers: int) -> None:
    tower, pixels = make_tower(kind), torch.randn(2, 3, 8, 8)
    patches = by_hand(tower, pixels, num_layers=num_layers)[:, NUM_LEADING.get(kind, 1) :]
    assert patches.shape == (2, 4, 8)
    assert torch.equal(tower_features(tower, pixels, FeatureSpec(layer=layer)), patches)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "siglip"])
def test_class_token_comes_first_and_registers_never(kind: str) -> None:
    tower, pixels = make_tower(kind), torch.randn(2, 3, 8, 8)
    hidden = by_hand(tower, pixels, num_layers=2)
    cls, patches = hidden[:, :1], hidden[:, NUM_LEADING.get(kind, 1) :]
    assert torch.equal(tower_features(tower, pixels, FeatureSpec(tokens="cls")), cls)
    assert torch.equal(tower_features(tower, pixels, FeatureSpec(tokens="all")), torch.cat([cls, patches], 1))


@pytest.mark.parametrize("kind", MAKERS)
def test_norm_of_the_last_layer_is_the_towers_output(kind: str) -> None:
    tower, pixels = make_tower(kind), torch.randn(2, 3, 8, 8)
    first = NUM_LEADING.get(kind, 1)
    for layer, num_layers in ((-1, 3), (-2, 2)):
        normed = tower_features(tower, pixels, FeatureSpec(layer=layer, post_norm=True))
        assert torch.equal(normed, norm_of(tower)(by_hand(tower, pixels, num_layers=num_layers))[:, first:])
    if not kind.startswith("clip"):  # CLIP's own last_hidden_state leaves the norm out
        normed = tower_features(tower, pixels, FeatureSpec(layer=-1, post_norm=True))
        assert torch.equal(normed, tower(pixel_values=pixels).last_hidden_state[:, first:])


def test_several_layers_put_their_rows_side_by_side() -> None:
    tower, pixels = make_tower("clip"), torch.randn(2, 3, 8, 8)
    rows = tower_features(tower, pixels, FeatureSpec(layer=(3, 1, -2), tokens="cls"))
    expected = [by_hand(tower, pixels, num_layers=number)[:, 0] for number in (3, 1, 2)]
    assert torch.equal(rows, torch.stack(expected, dim=1))


def test_video_rows_are_the_image_embeddings_of_its_frames() -> None:
    tower, frames = make_tower("clip with projection"), torch.randn(2, 5, 3, 8, 8)
    rows = tower_features(tower, frames, FEATURE_PRESETS["video_cls"])
    expected = torch.stack([tower(pixel_values=video).image_embeds for video in frames])
    # The same products in other shapes, in float32.
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    patches = tower_features(tower, frames, FeatureSpec())
    assert torch.equal(patches[1, 4:8], tower_features(tower, frames[1, 1:2], FeatureSpec())[0])


def test_grid_is_the_largest_of_overlapping_squares() -> None:
    tower, pixels = make_resnet(), torch.randn(2, 3, 96, 96)
    rows = tower_features(tower, pixels, FeatureSpec(layer=-1)).unflatten(1, (3, 3))
    pooled = tower_features(tower, pixels, FeatureSpec(layer=-1, grid=2)).unflatten(1, (2, 2))
    for down in range(2):
        for right in range(2):
            square = rows[:, down : down + 2, right : right + 2]
            assert torch.equal(pooled[:, down, right], square.amax(dim=(1, 2)))


def test_rows_of_a_resnet_are_its_map_line_by_line() -> None:
    tower, pixels = make_resnet(), torch.randn(1, 3, 96, 96)
    rows = tower_features(tower, pixels, FeatureSpec(layer=-1))
    maps = []
    tower.layer4.register_forward_hook(lambda module, args, output: maps.append(output))
    assert torch.equal(tower_features(tower, pixels, FeatureSpec(layer=-1)), rows)
    assert torch.equal(rows[0, 5], maps[0][0, :, 1, 2])


def make_resnet() -> ClipResNet:
    torch.manual_seed(0)
    return ClipResNet(ClipResNetConfig(depths=(1, 1, 1, 1), output_dim=3, width=2, image_size=96)).eval()


@pytest.mark.parametrize(
    ("preset", "tower", "size", "shape"),
    [
        ("llava", "ViT-L/14", 336, (576, 1024)),
        ("memvp_scienceqa", "ViT-L/14", 224, (256, 1024)),
        ("global6", "ViT-L/14", 224, (6, 1024)),
        ("video_cls", "ViT-B/32", 224, (1, 512)),
        ("clip_resnet", "RN101", 224, (49, 2048)),
        ("vl_adapter", "RN101", 224, (36, 2048)),
        ("llava", "so400m", 384, (729, 1152)),
        ("llava", "dinov2-base with registers", 224, (256, 768)),
    ],
)
def test_presets_on_published_sizes(preset: str, tower: str, size: int, shape: tuple[int, int]) -> None:
    pixels = torch.empty(2, 3, size, size, device="meta")
    assert tower_features(published(tower, size=size), pixels, FEATURE_PRESETS[preset]).shape == (2, *shape)


def published(name: str, *, size: int) -> Any:
    """Towers of real size without memory for weights."""
    import transformers

    wide = {"image_size": size, "patch_size": 14}
    large = {**wide, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    so400m = {**wide, "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    with torch.device("meta"):
        if name == "RN101":
            return ClipResNet(CLIP_RESNETS[name])
        if name == "ViT-L/14":
            return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**large))
        if name == "ViT-B/32":
            return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig())
        if name == "so400m":
            return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**so400m, num_attention_heads=16))
        return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**wide))


def test_memvp_scienceqa_and_llava_differ_by_the_norm_alone() -> None:
    tower, pixels = make_tower("clip"), torch.randn(2, 3, 8, 8)
    llava, ours = (tower_features(tower, pixels, FEATURE_PRESETS[name]) for name in ("llava", "memvp_scienceqa"))
    norm = tower.post_layernorm
    torch.testing.assert_close(ours, F.layer_norm(llava, (8,), norm.weight, norm.bias, norm.eps))
    assert not torch.allclose(ours, llava)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": "words"}, "tokens must be one of patches, cls, all; got 'words'"),
        ({"layer": ()}, "at least one hidden state"),
        ({"grid": 0}, "1 x 1 or more; got 0 for 'patches'"),
        ({"grid": 2, "tokens": "cls"}, "got 2 for 'cls', leave it at None"),
    ],
)
def test_impossible_specs_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureSpec(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("clip", {"layer": 4}, "hidden states 0 to 3, there is no layer 4"),
        ("clip", {"layer": (1, -5)}, "there is no layer -5"),
        ("siglip", {"tokens": "cls"}, "SiglipVisionModel has no class token for tokens='cls'; take 'patches'"),
        ("siglip", {"tokens": "all"}, "has no class token for tokens='all'"),
        ("clip", {"projection": True}, "CLIPVisionModel has no visual_projection: .* CLIPVisionModelWithProjection"),
        ("dinov2", {"projection": True}, "Dinov2Model has no visual_projection"),
    ],
)
def test_what_a_tower_has_not_is_refused(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tower_features(make_tower(kind), torch.randn(1, 3, 8, 8), FeatureSpec(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": "cls"}, "ClipResNet has no class token"),
        ({"post_norm": True}, "ClipResNet has no final norm: set post_norm to false"),
        ({"layer": (-2, -1)}, r"are \[32, 64\] wide; take layers of one width"),
    ],
)
def test_what_a_resnet_has_not_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tower_features(make_resnet(), torch.randn(1, 3, 96, 96), FeatureSpec(**settings))


def test_grid_of_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="pools a square of patches, got 2 rows"):
        tower_features(make_resnet(), torch.randn(1, 3, 64, 32), FeatureSpec(layer=-1, grid=1))


def test_another_model_is_refused_with_the_known_ones() -> None:
    from transformers import CLIPModel

    with pytest.raises(
        ValueError, match=r"of type clip_vision_model, siglip_vision_model, .*, got Linear of type None"
    ):
        tower_features(torch.nn.Linear(1, 1), torch.randn(1, 3, 8, 8), FeatureSpec())
    with torch.device("meta"):
        both = CLIPModel(CLIPModel.config_class())
    with pytest.raises(ValueError, match="got CLIPModel of type 'clip'; pass the vision part of a two-tower model"):
        tower_features(both, torch.randn(1, 3, 8, 8), FeatureSpec())
