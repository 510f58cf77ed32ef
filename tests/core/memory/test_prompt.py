"""ZeRO-3's contract: a parameter is there only while the module that holds it runs, and the layers read later."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memvp_core.vision.tower import StaticRows
from tests.core.tiny_models import make_tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "shared": {},
    "per_layer": {"share_position_embedding": False},
    "no_visual_rows": {"insert_in": "none"},
    "no_bias": {"projector_bias": False},
    "learned_scales_and_two_images": {"learn_scales": True, "num_images": 2},
    "gates": {"retrieval_gate": True, "learn_scales": True},
}


def as_zero3_does(module: nn.Module) -> None:
    """Gather the parameters of each module before it runs; afterwards their memory goes to others."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            part.register_forward_pre_hook(_gather(parameter, parameter.detach().clone()))
            part.register_forward_hook(_release(parameter))
            _release(parameter)()


def _gather(parameter: nn.Parameter, whole: Tensor) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        parameter.data = whole.clone()

    return hook


def _release(parameter: nn.Parameter) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        parameter.data.fill_(torch.nan)
        parameter.data = parameter.data.new_empty(0)

    return hook


@pytest.mark.parametrize("form", ["direct", "split", "factored", "reference"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_layers_read_outlives_the_parameters(name: str, form: str, memvp, batch) -> None:
    settings = SETTINGS[name] | {"form": "split" if name == "no_visual_rows" and form == "factored" else form}
    model = memvp(**settings)
    ids, features = batch(images=4)
    with torch.no_grad():
        wanted = model(ids, visual_features=features).logits
        as_zero3_does(model.prompt)
        found = model(ids, visual_features=features).logits
    assert torch.equal(found, wanted)


def test_a_towers_rows_outlive_their_parameters() -> None:
    rows = StaticRows(make_tiny("llava").model.vision_tower, num_layers=2, size=3)
    torch.nn.init.normal_(rows.values)
    wanted = [value.clone() for value in rows(torch.float64)]
    as_zero3_does(rows)
    assert all(torch.equal(found, value) for found, value in zip(rows(torch.float64), wanted, strict=True))
