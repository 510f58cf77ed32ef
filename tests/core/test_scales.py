"""A memory that begins without doing harm: scales that are tried, a number found, gates that begin at 0."""

import pytest
import torch

from memvp_core import MemVPConfig, get_memvp_model
from memvp_core.scales import HARM, harmless_scale, is_harmful
from tests.core.tiny_models import make_tiny


def answers(model, ids, features):
    with torch.no_grad():
        return model(ids, visual_features=features).logits


@pytest.mark.parametrize("form", ["direct", "split", "factored", "reference"])
@pytest.mark.parametrize("settings", [{}, {"learn_scales": True}, {"retrieval_gate": True}], ids=str)
def test_scaled_retrieval_is_that_of_another_scale(memvp, batch, form: str, settings) -> None:
    ids, features = batch(images=4)
    model = memvp(form=form, **settings)
    with model.injection.scaled(0.25):
        found = answers(model, ids, features)
    if settings.get("learn_scales"):
        model.prompt.retrieval_scale.data *= 0.25
    else:
        model.set_retrieval_scale(0.25 * model.memvp_config.retrieval_scale)
    torch.testing.assert_close(found, answers(model, ids, features), rtol=1e-6, atol=1e-9)


def test_scaled_to_nothing_is_the_base_model_and_ends_with_the_block(memvp, batch) -> None:
    ids, features = batch(images=4)
    model = memvp()
    before = answers(model, ids, features)
    with model.injection.scaled(0.0):
        nothing = answers(model, ids, features)
    with model.disable_adapter():
        torch.testing.assert_close(nothing, answers(model, ids, features), rtol=0, atol=0)
    torch.testing.assert_close(answers(model, ids, features), before, rtol=0, atol=0)


def test_scaled_to_nothing_is_the_base_model_for_features_that_are_not_finite_too(memvp, batch) -> None:
    ids, features = batch(images=4)
    model = memvp()
    features[0, 0, 0] = torch.nan
    with model.injection.scaled(0.0):
        assert bool(answers(model, ids, features).isfinite().all())


@pytest.mark.parametrize("form", ["split", "factored"])
def test_decoding_is_scaled_too(memvp, batch, form: str) -> None:
    ids, features = batch(images=4)
    model = memvp(form=form)
    with model.injection.scaled(0.0):
        found = model.generate(ids, visual_features=features, max_new_tokens=5, do_sample=False)
    with model.disable_adapter():
        assert torch.equal(found, model.generate(ids, max_new_tokens=5, do_sample=False))


def test_gates_begin_at_the_base_model_and_have_a_gradient(batch) -> None:
    ids, features = batch(images=4)
    model = get_memvp_model(make_tiny(), MemVPConfig(vision_hidden_size=6, num_slots=5, retrieval_gate=True)).eval()
    with model.disable_adapter():
        wanted = answers(model, ids, features)
    torch.testing.assert_close(answers(model, ids, features), wanted, rtol=0, atol=0)
    model(ids, labels=ids, visual_features=features).loss.backward()
    gates = model.prompt.retrieval_gates
    assert gates.grad is not None
    assert bool((gates.grad != 0).all())


def test_largest_scale_that_does_no_harm_is_found() -> None:
    tried: list[float] = []

    def loss_at(scale: float) -> float:
        tried.append(scale)
        return 2.0 + scale

    assert harmless_scale(loss_at) == 0.1
    assert tried == [0.0, 1.0, 0.32, 0.1]
    assert harmless_scale(loss_at, start=0.01, without=2.0) == 0.01


def test_a_loss_that_is_no_number_is_harm() -> None:
    assert is_harmful(float("nan"), without=2.0)
    assert is_harmful(2.0 * HARM + 1e-6, without=2.0)
    assert not is_harmful(2.0 * HARM, without=2.0)
    assert not is_harmful(1.0, without=2.0)
    with pytest.raises(
        ValueError, match=r"at retrieval_scale 0.00032 still makes .* than 1.05 times the 2.000 without"
    ):
        harmless_scale(lambda scale: 2.0 if scale == 0 else float("nan"))


def test_scale_that_is_still_to_be_found_is_refused_and_the_model_left_as_it_was() -> None:
    base = make_tiny()
    with pytest.raises(ValueError, match="here give a number, or let memvp_core"):
        get_memvp_model(base, MemVPConfig(vision_hidden_size=6, retrieval_scale="auto"))
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_number_that_was_set_is_saved(memvp, batch, tmp_path) -> None:
    ids, features = batch(images=4)
    model = memvp()
    model.set_retrieval_scale(0.3)
    wanted = answers(model, ids, features)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(make_tiny(), tmp_path).eval()
    assert again.memvp_config.retrieval_scale == 0.3
    torch.testing.assert_close(answers(again, ids, features), wanted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="s is learned here"):
        memvp(learn_scales=True).set_retrieval_scale(0.3)
