"""Under autocast the memory computes as in a model with weights of autocast's dtype, and as precisely."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from memvp_core import MemVPConfig, VisionTower
from memvp_core.locate import retrieval_map
from memvp_core.memory import retrieve
from memvp_core.memory.inputs import read_inputs
from memvp_core.memory.prompt import VisualPrompt
from tests.core.memory.test_forms import paper_sizes
from tests.core.tiny_models import make_tiny


def autocast(dtype: torch.dtype | None = torch.bfloat16) -> Any:
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def scores_at_paper_sizes(form: Any, *, dtype: torch.dtype, cast: torch.dtype | None) -> tuple[str, Tensor, Tensor]:
    """LLaMA-7B's with the paper's projector and scales: the form, the scores of 64 tokens, and what they retrieve."""
    torch.manual_seed(0)
    config = MemVPConfig(vision_hidden_size=1024, form=form)
    prompt = VisualPrompt(config, hidden_size=4096, num_layers=32, dtype=torch.float32)
    features, x = torch.randn(1, 256, 1024), (0.3 * torch.randn(1, 64, 4096)).bfloat16()
    scores: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        scores.append(values)
        return functional.silu(values)

    images = {"visual_features": features, "row_images": None, "memory": None, "image_index": None}
    modes = {"is_generating": False, "is_training": False}
    with torch.no_grad(), autocast(cast):
        reading = read_inputs(prompt, config, batch=x, **images, dtype=dtype, **modes)
        out = reading.retrieve(x.to(dtype), layer=0, activation=keep)
    with torch.no_grad():
        rows = 0.01 * prompt.double().projector(features.double())
        keys = prompt.key_positions.bfloat16().double()
        visual = functional.pad(x.double() @ rows.mT, (0, 64))
    assert out.dtype == dtype
    assert scores[0].dtype == torch.float32
    error = (scores[0].double() - x.double() @ keys.mT - visual).norm() / visual.norm()
    return reading.form, error, out


@pytest.mark.parametrize(("form", "bound"), [("auto", 4e-3), ("split", 4e-3), ("factored", 4e-3), ("direct", 2e-2)])
def test_the_image_is_kept_as_by_weights_of_sixteen_bits(form: str, bound: float) -> None:
    """Products that autocast rounds have errors of 2.5 to 2.9 % of the visual part, and `auto` would take `direct`."""
    chosen, wanted_error, wanted = scores_at_paper_sizes(form, dtype=torch.bfloat16, cast=None)
    found_form, error, found = scores_at_paper_sizes(form, dtype=torch.float32, cast=torch.bfloat16)
    assert found_form == chosen
    assert (form == "auto") <= (chosen != "direct")
    assert error < bound
    assert error == wanted_error
    assert torch.equal(found.bfloat16(), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["auto", "direct", "split", "factored"])
def test_gradients_under_autocast_follow_the_wide_ones(memvp, batch, form: str, dtype: torch.dtype) -> None:
    ids, features = batch(images=4)
    found = []
    weights = memvp().prompt.state_dict()
    for checkpointed, base, cast in (
        (False, make_tiny(), None),
        (False, make_tiny().float(), dtype),
        (True, make_tiny().float(), dtype),
    ):
        model = memvp(base, form=form)
        model.prompt.load_state_dict(weights)
        if checkpointed:
            model.train().gradient_checkpointing_enable()
        with autocast(cast):
            loss = model(ids, labels=ids, visual_features=features.to(model.prompt.dtype)).loss
        loss.backward()
        found.append({name: parameter.grad.double() for name, parameter in model.trainable_state().items()})
    wanted, short, again = found
    for name, gradient in wanted.items():
        # Some ten roundings by 2^-9, which base weights of deviation 0.3 amplify: 4.5 % at most.
        assert (short[name] - gradient).norm() < 0.1 * gradient.norm(), name
        assert torch.equal(again[name], short[name]), name


def test_memory_equals_features_under_autocast(memvp, batch) -> None:
    model = memvp(make_tiny(dtype=torch.float32))
    ids, features = batch(images=4)
    with torch.no_grad(), autocast():
        memory = model.encode(features.float())
        found = model(ids, memory=memory).logits
        wanted = model(ids, visual_features=features.float()).logits
        words = [model.generate(ids, **images, max_new_tokens=4, do_sample=False) for images in (
            {"memory": memory}, {"visual_features": features.float()}
        )]  # fmt: skip
    assert torch.equal(memory.codes, model.encode(features.float()).codes)
    assert torch.equal(found, wanted)
    assert torch.equal(*words)


def test_autocast_leaves_float64_alone(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    wanted = model(ids, visual_features=features).logits
    with autocast():
        assert torch.equal(model(ids, visual_features=features).logits, wanted)


@pytest.mark.parametrize("form", ["direct", "split", "factored", "reference"])
def test_the_function_computes_in_the_dtype_of_its_tensors(form: str) -> None:
    tensors = {name: tensor[..., :64].float() for name, tensor in paper_sizes().items()}
    tensors["basis"] = torch.randn(64, 64)
    settings = {"image_index": torch.tensor([0]), "activation": functional.silu, "form": form}
    tensors["x"] = tensors["x"][:, :3]
    wanted = retrieve(**tensors, **settings)
    with autocast():
        assert torch.equal(retrieve(**tensors, **settings), wanted)


def test_maps_are_not_rounded_by_autocast(memvp, batch) -> None:
    model = memvp(make_tiny(dtype=torch.float32))
    ids, features = batch(images=4)
    with autocast():
        maps = retrieval_map(model, input_ids=ids, memory=model.encode(features.float()))
    assert maps.dtype == torch.float32
    assert not torch.equal(maps, maps.bfloat16().float())


def test_adapters_of_a_tower_follow_autocast() -> None:
    tower = make_tiny("llava", dtype=torch.float32).model.vision_tower
    adapted = VisionTower(tower, adapter_size=2)
    torch.nn.init.normal_(adapted.adapters.values)
    entries = []
    adapted._injection.slot.bound = _seen(entries, adapted._injection.slot.bound)
    pixels = torch.randn(1, 3, 16, 16)
    with autocast():
        adapted(pixels)
    adapted(pixels)
    assert [one.dtype for one in entries] == [torch.bfloat16, torch.float32]


def _seen(entries: list[Any], bound: Any) -> Any:
    def see(reading: Any) -> Any:
        entries.append(reading.entries)
        return bound(reading)

    return see
