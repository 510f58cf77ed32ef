"""Gradient checkpointing runs layers again in backward, after forward has returned: the memory must come along."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

MODES = pytest.mark.parametrize("use_reentrant", [False, True], ids=["non_reentrant", "reentrant"])
Gradients = dict[str, Tensor]


def add_lora(model: Any) -> None:
    from peft import LoraConfig

    torch.manual_seed(3)
    model.add_lora(LoraConfig(r=2, target_modules=["v_proj", "up_proj"], init_lora_weights=False))


def gradients(model: Any, backward: Callable[[Any], None]) -> Gradients:
    backward(model)
    return {name: parameter.grad.clone() for name, parameter in model.trainable_state().items()}


def assert_checkpointing_changes_nothing(model: Any, backward: Callable[[Any], None], *, use_reentrant: bool) -> None:
    model.train()
    plain = gradients(copy.deepcopy(model), backward)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    found = gradients(model, backward)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.language_model.modules())
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@MODES
@pytest.mark.parametrize(
    "settings",
    [{"form": "direct"}, {"form": "split"}, {"share_position_embedding": False}, {"insert_in": "values"}],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_gradients_are_the_same(memvp, batch, settings: dict[str, Any], use_reentrant: bool) -> None:
    model = memvp(**settings)
    add_lora(model)
    ids, features = batch()
    index = torch.tensor([1, -1, 0, 1])

    def backward(model: Any) -> None:
        model(ids, labels=ids, visual_features=features, image_index=index).loss.backward()

    assert_checkpointing_changes_nothing(model, backward, use_reentrant=use_reentrant)


@MODES
def test_two_forwards_before_one_backward(memvp, batch, use_reentrant: bool) -> None:
    """A memory left lying after forward ("current image") gives the first batch the second one's images, silently."""
    ids, features = batch(images=8)

    def backward(model: Any) -> None:
        first = model(ids, labels=ids, visual_features=features[:4]).loss
        second = model(ids, labels=ids, visual_features=features[4:]).loss
        (first + 2 * second).backward()

    assert_checkpointing_changes_nothing(memvp(), backward, use_reentrant=use_reentrant)


def test_dropout_is_drawn_again_alike(memvp, batch) -> None:
    ids, features = batch(images=4)

    def backward(model: Any) -> None:
        torch.manual_seed(4)
        model(ids, labels=ids, visual_features=features).loss.backward()

    assert_checkpointing_changes_nothing(memvp(memory_dropout=0.3), backward, use_reentrant=False)


def test_switched_on_at_the_language_model(memvp, batch) -> None:
    """Nobody has to know that MemVPModel has a method of its own."""
    ids, features = batch(images=4)
    model, plain = memvp().train(), memvp().train()
    # The second is the name in older transformers.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model.language_model, name) for name in names if hasattr(model.language_model, name))()
    for one in (model, plain):
        one(ids, labels=ids, visual_features=features).loss.backward()
    for name, parameter in plain.trainable_state().items():
        torch.testing.assert_close(model.trainable_state()[name].grad, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("former", [False, True], ids=["present_name", "former_name"])
@pytest.mark.parametrize("settings", [{"every_n_layers": 2}, {"every_n_layers": 1, "offload": False}], ids=str)
def test_takes_what_transformers_own_models_take(memvp, batch, former: bool, settings: dict[str, Any]) -> None:
    """Trainer calls the present name, that of transformers 5.17 the former one, both with all settings."""
    ids, features = batch(images=4)
    model, plain = memvp().train(), memvp().train()
    if former:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=None, **settings)
    else:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=None, **settings)
    for one in (model, plain):
        one(ids, labels=ids, visual_features=features).loss.backward()
    for name, parameter in plain.trainable_state().items():
        torch.testing.assert_close(model.trainable_state()[name].grad, parameter.grad, rtol=1e-9, atol=1e-12)


def test_backward_in_another_thread(memvp, batch) -> None:
    from threading import Thread

    ids, features = batch(images=4)
    model, plain = memvp().train(), memvp().train()
    model.gradient_checkpointing_enable()
    loss = model(ids, labels=ids, visual_features=features).loss
    thread = Thread(target=loss.backward)
    thread.start()
    thread.join()
    plain(ids, labels=ids, visual_features=features).loss.backward()
    for name, parameter in plain.trainable_state().items():
        torch.testing.assert_close(model.trainable_state()[name].grad, parameter.grad, rtol=1e-9, atol=1e-12)
