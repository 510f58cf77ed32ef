"""The CLIP ResNet against its description written out over a state dict by name, and its weights in every layout."""

import itertools
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memvp_core.vision.clip_resnet import CLIP_RESNETS, ClipResNet, ClipResNetConfig
from memvp_core.vision.clip_resnet_weights import load_clip_resnet, openai_names

SMALL = ClipResNetConfig(depths=(2, 1, 3, 1), output_dim=5, width=4, image_size=64)
Weights = Mapping[str, Tensor]


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A state dict with running statistics and biases that are not at their initial values."""
    torch.manual_seed(0)
    state = ClipResNet(SMALL).double().state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_var", "running_mean", "weight", "bias")) and tensor.ndim == 1:
            state[name] = torch.rand_like(tensor) + 0.5
    return dict(state)


def batch_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    mean, variance, weight, bias = (
        weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def tile_means(x: Tensor, *, side: int) -> Tensor:
    return x.unfold(2, side, side).unfold(3, side, side).mean((-1, -2))


def stem_by_hand(pixels: Tensor, weights: Weights) -> Tensor:
    x = pixels
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.conv2d(x, weights[f"conv{number}.weight"], stride=stride, padding=1)
        x = batch_norm(x, weights, f"bn{number}").clamp(min=0)
    return tile_means(x, side=2)


def block_by_hand(x: Tensor, weights: Weights, *, name: str, stride: int) -> Tensor:
    inner = torch.einsum("bchw,dc->bdhw", x, weights[f"{name}.conv1.weight"][:, :, 0, 0])
    inner = batch_norm(inner, weights, f"{name}.bn1").clamp(min=0)
    inner = F.conv2d(inner, weights[f"{name}.conv2.weight"], padding=1)
    inner = tile_means(batch_norm(inner, weights, f"{name}.bn2").clamp(min=0), side=stride)
    inner = torch.einsum("bchw,dc->bdhw", inner, weights[f"{name}.conv3.weight"][:, :, 0, 0])
    inner = batch_norm(inner, weights, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in weights:
        x = torch.einsum("bchw,dc->bdhw", tile_means(x, side=stride), weights[f"{name}.downsample.0.weight"][..., 0, 0])
        x = batch_norm(x, weights, f"{name}.downsample.1")
    return (inner + x).clamp(min=0)


def maps_by_hand(pixels: Tensor, weights: Weights) -> list[Tensor]:
    maps = [stem_by_hand(pixels, weights)]
    for stage, depth in enumerate(SMALL.depths, start=1):
        x = maps[-1]
        for block in range(depth):
            x = block_by_hand(x, weights, name=f"layer{stage}.{block}", stride=2 if stage > 1 and block == 0 else 1)
        maps.append(x)
    return maps


def pool_by_hand(x: Tensor, weights: Weights) -> Tensor:
    """With torch's own attention, every place a query, of which only the mean's answer is kept."""
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + weights["attnpool.positional_embedding"][:, None]
    width = tokens.shape[-1]
    parts = {part: (weights[f"attnpool.{part}.weight"], weights[f"attnpool.{part}.bias"]) for part in projections()}
    attention = torch.nn.MultiheadAttention(width, width // 64).double()
    attention.in_proj_weight.data = torch.cat([parts[name][0] for name in ("q_proj", "k_proj", "v_proj")])
    attention.in_proj_bias.data = torch.cat([parts[name][1] for name in ("q_proj", "k_proj", "v_proj")])
    attention.out_proj.weight.data = torch.eye(width, dtype=torch.float64)
    torch.nn.init.zeros_(attention.out_proj.bias)
    return F.linear(attention(tokens, tokens, tokens)[0][0], *parts["c_proj"])


def projections() -> tuple[str, ...]:
    return ("q_proj", "k_proj", "v_proj", "c_proj")


def test_every_map_equals_the_description_written_out(weights: dict[str, Tensor]) -> None:
    tower = load_clip_resnet(weights).double()
    pixels = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    output = tower(pixels, output_hidden_states=True)
    # float64 kept as float32 weights in between: the tower and the description read the same rounded numbers.
    expected = maps_by_hand(pixels, {name: tensor.double() for name, tensor in tower.state_dict().items()})
    assert [tuple(x.shape[1:]) for x in expected] == [(4, 24, 16), (16, 24, 16), (32, 12, 8), (64, 6, 4), (128, 3, 2)]
    for rows, one in zip(output.hidden_states, expected, strict=True):
        torch.testing.assert_close(rows, one.flatten(2).mT, rtol=1e-10, atol=1e-10)
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
    assert tower(pixels).hidden_states is None


def test_embedding_equals_torchs_attention_over_all_places(weights: dict[str, Tensor]) -> None:
    tower = load_clip_resnet(weights).double()
    pixels = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    state = {name: tensor.double() for name, tensor in tower.state_dict().items()}
    expected = pool_by_hand(maps_by_hand(pixels, state)[-1], state)
    assert expected.shape == (3, 5)
    torch.testing.assert_close(tower.embed(pixels), expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="a map of 4 places, got 6"):
        tower.embed(torch.randn(1, 3, 96, 64))


def test_gradients_reach_the_pixels_and_the_features_leave_the_pool_alone(weights: dict[str, Tensor]) -> None:
    tower = load_clip_resnet(weights)
    pixels = torch.randn(1, 3, 64, 64, requires_grad=True)
    tower(pixels).last_hidden_state.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert {name for name, part in tower.named_parameters() if part.grad is None} == {
        f"attnpool.{part}.{kind}" for part in projections() for kind in ("weight", "bias")
    } | {"attnpool.positional_embedding"}


@pytest.mark.parametrize(
    ("name", "trunk", "pool"), [("RN50", 23_527_264, 14_789_632), ("RN101", 42_519_392, 13_740_544)]
)
def test_parameter_counts_of_the_published_towers(name: str, trunk: int, pool: int) -> None:
    # RN101 together: 56,259,936. RN50's pool by hand: 50*2048 + 3*(2048*2048 + 2048) + 2048*1024 + 1024.
    with torch.device("meta"):
        tower = ClipResNet(CLIP_RESNETS[name])
    in_pool = sum(part.numel() for part in tower.attnpool.parameters())
    assert (sum(part.numel() for part in tower.parameters()) - in_pool, in_pool) == (trunk, pool)


def visual(weights: Weights) -> dict[str, Tensor]:
    """As in OpenAI's whole model: beside a text tower and loose numbers."""
    text = {
        "positional_embedding": torch.zeros(7, 2),
        "text_projection": torch.zeros(2, 2),
        "input_resolution": torch.tensor(64),
    }
    return {**text, **{f"visual.{name}": tensor for name, tensor in weights.items()}}


def halves(weights: Weights) -> dict[str, Tensor]:
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def without_counters(weights: Weights) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


def timm(weights: Weights) -> dict[str, Tensor]:
    """Names of timm's byobnet, spelt out block by block; not made from the table that is tested."""
    pairs = [
        (f"stem.conv{n}.{kind}", f"{ours}{n}") for n in (1, 2, 3) for kind, ours in (("conv", "conv"), ("bn", "bn"))
    ]
    for stage, depth in enumerate(SMALL.depths):
        for block in range(depth):
            theirs, ours = f"stages.{stage}.{block}", f"layer{stage + 1}.{block}"
            pairs += [(f"{theirs}.conv1_1x1.conv", f"{ours}.conv1"), (f"{theirs}.conv1_1x1.bn", f"{ours}.bn1")]
            pairs += [(f"{theirs}.conv2_kxk.conv", f"{ours}.conv2"), (f"{theirs}.conv2_kxk.bn", f"{ours}.bn2")]
            pairs += [(f"{theirs}.conv3_1x1.conv", f"{ours}.conv3"), (f"{theirs}.conv3_1x1.bn", f"{ours}.bn3")]
            pairs += [(f"{theirs}.shortcut.conv.conv", f"{ours}.downsample.0")]
            pairs += [(f"{theirs}.shortcut.conv.bn", f"{ours}.downsample.1")]
    pairs += [
        (f"head.{theirs}", f"attnpool.{ours}")
        for theirs, ours in zip(("q", "k", "v", "proj"), projections(), strict=True)
    ]
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    named = {f"{ours}.{kind}": f"{theirs}.{kind}" for (theirs, ours), kind in itertools.product(pairs, kinds)}
    named["attnpool.positional_embedding"] = "head.pos_embed"
    return {named[name]: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("layout", [dict, visual, timm, halves, without_counters], ids=lambda layout: layout.__name__)
def test_every_layout_loads_the_same_tower(
    weights: dict[str, Tensor], layout: Callable[[Weights], dict[str, Tensor]]
) -> None:
    tower = load_clip_resnet(layout(weights))
    assert tower.config == SMALL
    assert not tower.training
    for name, tensor in tower.state_dict().items():
        # Half precision has 11 bits.
        tolerance = 2**-11 if layout is halves else 2**-24
        torch.testing.assert_close(tensor.double(), weights[name].double(), rtol=tolerance, atol=tolerance, msg=name)
        assert tensor.dtype in (torch.float32, torch.int64)


def test_timm_names_of_the_published_tower_are_all_translated() -> None:
    with torch.device("meta"):
        ours = ClipResNet(CLIP_RESNETS["RN101"]).state_dict()
    # First and last of each kind, as timm's resnet101_clip has them.
    theirs = (
        "stem.conv1.conv.weight stem.conv3.bn.running_var stages.0.0.shortcut.conv.conv.weight "
        "stages.2.22.conv2_kxk.bn.bias stages.3.2.conv3_1x1.conv.weight stages.3.0.shortcut.conv.bn.running_mean "
        "head.pos_embed head.q.bias head.proj.weight"
    ).split()
    translated = openai_names(dict.fromkeys(theirs, torch.zeros(1)))
    assert set(translated) <= set(ours)
    assert len(translated) == len(theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {}, "there is no layer1.0.conv1.weight, but nothing"),
        (
            lambda w: {"visual.conv1.weight": w["conv1.weight"], "visual.ln_pre.weight": w["bn1.weight"]},
            "but conv1.weight, ln_pre",
        ),
        (lambda w: {n: t for n, t in w.items() if "attnpool" not in n}, "there is no attnpool.c_proj.weight"),
        (
            lambda w: {n: t for n, t in w.items() if n != "layer3.1.bn2.bias"},
            r"missing: \['layer3.1.bn2.bias'\], unknown: none",
        ),
        (lambda w: {**w, "layer1.0.se.weight": w["bn1.weight"]}, r"missing: none, unknown: \['layer1.0.se.weight'\]"),
        (lambda w: {**w, "conv2.weight": w["conv1.weight"]}, "contradict each other: .*conv2.weight"),
    ],
    ids=["nothing", "a ViT", "no pool", "one missing", "one too many", "another shape"],
)
def test_other_state_dicts_are_refused(
    weights: dict[str, Tensor], change: Callable[..., dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_clip_resnet(change(weights))
