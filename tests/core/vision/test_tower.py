"""Vision towers inside the model: adapters equal their written-out form, train live, and leave no trace."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from memvp_core import MemVPConfig, VisionTower, get_memvp_model
from memvp_core.vision import FEATURE_PRESETS, FeatureSpec, tower_features
from tests.core.tiny_models import make_tiny

WIDTH, SIZE = 16, 3
KINDS = ["CLIPVisionModel", "SiglipVisionModel", "Dinov2Model"]


def make_tower(kind: str = "CLIPVisionModel", **settings: Any) -> Any:
    import transformers

    model: Any = getattr(transformers, kind)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    sizes |= {"mlp_ratio": 2} if kind == "Dinov2Model" else {"intermediate_size": 24}
    torch.manual_seed(0)
    return model(model.config_class(**sizes, **settings)).double().eval()


def make_adapted(kind: str = "CLIPVisionModel", **settings: Any) -> VisionTower:
    adapted = VisionTower(make_tower(kind), adapter_size=SIZE, **{"adapter_dropout": 0.0} | settings).eval()
    torch.manual_seed(1)
    nn.init.normal_(adapted.adapters.keys)
    nn.init.normal_(adapted.adapters.values)
    return adapted


def written_out(adapted: VisionTower, pixels: Tensor) -> Tensor:
    """MLP(v) + 0.1 Up(GELU(Down v)) in a fresh tower, by a hook of its own."""
    tower = make_tower(type(adapted.tower).__name__)
    keys, values = adapted.adapters.keys, adapted.adapters.values
    mlps = [module for path, module in tower.named_modules() if path.endswith(".mlp")]
    for number in range(len(keys)):

        def add(_: nn.Module, args: tuple[Tensor, ...], out: Tensor, number: int = number) -> Tensor:
            return out + 0.1 * functional.gelu(args[0] @ keys[number].T) @ values[number]

        mlps[number].register_forward_hook(add)
    return tower_features(tower, pixels, adapted.spec)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_equal_their_written_out_form(kind: str) -> None:
    adapted, pixels = make_adapted(kind), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    found, wanted = adapted(pixels), written_out(adapted, pixels)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(found)
    parameters = list(adapted.adapters.parameters())
    for left, right in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((wanted * weights).sum(), parameters),
        strict=True,
    ):
        assert left.abs().max() > 1e-6
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


def test_new_adapters_change_nothing_and_unload_leaves_no_trace() -> None:
    tower, pixels = make_tower(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plain = tower_features(tower, pixels, FeatureSpec())
    # transformers has hooks of its own, to collect hidden states.
    hooks = {path: set(module._forward_hooks) for path, module in tower.named_modules()}
    adapted = VisionTower(tower, adapter_size=SIZE)
    torch.testing.assert_close(adapted.eval()(pixels), plain, rtol=0, atol=0)
    assert adapted.unload() is tower
    assert {path: set(module._forward_hooks) for path, module in tower.named_modules()} == hooks


def test_layers_that_do_not_run_get_no_adapter() -> None:
    assert make_adapted(spec=FeatureSpec(layer=-2)).adapters.keys.shape == (3, SIZE, WIDTH)
    assert make_adapted(spec=FeatureSpec(layer=(0, 2))).adapters.keys.shape == (2, SIZE, WIDTH)
    assert make_adapted(spec=FeatureSpec(layer=-1)).adapters.keys.shape == (4, SIZE, WIDTH)


def test_frames_of_a_video_read_the_same_adapters() -> None:
    adapted = make_adapted(spec=FeatureSpec(layer=-1, tokens="cls"))
    video = torch.randn(2, 5, 3, 8, 8, dtype=torch.float64)
    assert adapted(video).shape == (2, 5, WIDTH)
    torch.testing.assert_close(adapted(video)[1], adapted(video[1])[:, 0], rtol=1e-10, atol=1e-10)


def make_seeing(**settings: Any) -> Any:
    torch.manual_seed(2)
    config = MemVPConfig(vision_hidden_size=WIDTH, num_slots=5, visual_scale=1.0, memory_dropout=0.0)
    model = get_memvp_model(make_tiny(), config, make_adapted(**settings)).eval()
    nn.init.normal_(model.prompt.value_positions, std=0.5)
    return model


def test_pixels_equal_the_towers_features() -> None:
    model, pixels = make_seeing(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ids = torch.randint(3, 39, (2, 6))
    seen = model(ids, pixel_values=pixels).logits
    assert torch.equal(seen, model(ids, visual_features=model.vision_tower(pixels)).logits)
    answers = model.generate(ids, pixel_values=pixels, max_new_tokens=3)
    assert torch.equal(answers, model.generate(ids, memory=model.encode(model.vision_tower(pixels)), max_new_tokens=3))


def test_a_step_trains_the_adapters_and_a_batch_without_images_gives_zeros() -> None:
    model, pixels = make_seeing().train(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ids = torch.randint(3, 39, (2, 6))
    names = {f"vision_tower.adapters.{name}" for name in ("keys", "values")}
    assert names < model.trainable_state().keys()
    model(ids, labels=ids, pixel_values=pixels).loss.backward()
    assert all(model.trainable_state()[name].grad.abs().max() > 0 for name in names)
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    assert all(not model.trainable_state()[name].grad.any() for name in names)


def test_checkpointing_in_the_tower_changes_nothing() -> None:
    plain, pixels = make_seeing().train(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    saving = copy.deepcopy(plain)
    saving.vision_tower.tower.gradient_checkpointing_enable({"use_reentrant": False})
    # Frozen towers stay in evaluation mode, where transformers checkpoints nothing.
    saving.vision_tower.tower.train()
    ids = torch.randint(3, 39, (2, 6))
    for model in (plain, saving):
        model(ids, labels=ids, pixel_values=pixels).loss.backward()
    for left, right in zip(
        plain.vision_tower.adapters.parameters(), saving.vision_tower.adapters.parameters(), strict=True
    ):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "spec", [FEATURE_PRESETS["llava"], FeatureSpec(layer=(1, 3), tokens="cls")], ids=["one", "two"]
)
def test_settings_make_the_same_tower_again(spec: FeatureSpec) -> None:
    adapted = VisionTower(make_tower(), spec, adapter_size=SIZE, adapter_scale=0.3)
    again = VisionTower.from_settings(make_tower(), adapted.settings())
    assert again.settings() == adapted.settings()
    assert again.spec == spec


def test_pixels_without_a_tower_are_refused(memvp, batch) -> None:
    ids, features = batch(images=4)
    with pytest.raises(ValueError, match="pixel_values go to a model with a vision_tower, and alone"):
        memvp()(ids, pixel_values=torch.zeros(4, 3, 8, 8))
    with pytest.raises(ValueError, match="here are visual_features or a memory too"):
        make_seeing()(ids, pixel_values=torch.zeros(4, 3, 8, 8), visual_features=features)


def test_second_adapters_in_a_tower_are_refused() -> None:
    adapted = make_adapted()
    with pytest.raises(ValueError, match=r"has a memory already.*call unload\(\)"):
        VisionTower(adapted.tower, adapter_size=SIZE)
    VisionTower(adapted.unload(), adapter_size=SIZE)
