"""Every architecture of the table, each held to the same promises; the oracle is concatenated.py."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.concatenated import make_concatenated
from tests.core.tiny_models import ARCHITECTURES, ENCODER_DECODERS, make_tiny

# Norms and rotary embeddings of transformers round to float32 inside: agreement with the oracle ends there.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
# Experts are weighted in float32 there, so their weights add up to 1 only so far.
CLOSE_EXPERTS = {"rtol": 1e-3, "atol": 1e-5}
EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
INDEX = [1, -1, 0, 1]
NEW_TOKENS = 4
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
MEMORY_NAMES = {
    "prompt.key_positions",
    "prompt.value_positions",
    "prompt.projector.0.weight",
    "prompt.projector.0.bias",
    "prompt.projector.2.weight",
    "prompt.projector.2.bias",
}


def inputs_for(name: str, ids: Tensor) -> dict[str, Tensor]:
    """Source and target of an encoder-decoder; otherwise one text."""
    if name in ENCODER_DECODERS:
        return {"input_ids": ids, "labels": ids.flip(1)[:, :4].contiguous()}
    return {"input_ids": ids, "labels": ids}


def grads(model: Any, prompt: Any, **inputs: Any) -> dict[str, Tensor]:
    prompt.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in prompt.named_parameters()}


def assert_same_grads(found: dict[str, Tensor], wanted: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient.abs().max() > 1e-7, f"{name} has no gradient to compare"
        torch.testing.assert_close(gradient, wanted[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@EVERY
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per_layer"])
def test_output_and_every_gradient_equal_the_concatenated_weights(name: str, shared: bool, memvp, batch) -> None:
    model = memvp(make_tiny(name), share_position_embedding=shared, learn_scales=True, form="split")
    ids, features = batch()
    for row, image in enumerate(INDEX[:3]):
        one = inputs_for(name, ids[row : row + 1])
        wanted = make_concatenated(model, None if image < 0 else features[image])
        seen = {"visual_features": features, "image_index": torch.tensor([image])}
        has_experts = name in ("mixtral", "qwen3_moe")
        tolerance = CLOSE_EXPERTS if has_experts else CLOSE
        torch.testing.assert_close(model(**one, **seen).logits, wanted(**one).logits, **tolerance)
        if image == 0:
            found = grads(model, model.prompt, **one, **seen)
            tolerance = {"rtol": 1e-3, "atol": 1e-6} if has_experts else {"rtol": 1e-5, "atol": 1e-8}
            assert_same_grads(found, grads(wanted, wanted.prompt_of_oracle, **one), **tolerance)


@pytest.mark.parametrize("settings", [{"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}], ids=str)
def test_plain_ffns_among_the_experts_equal_the_concatenated_weights(settings: Any, memvp, batch) -> None:
    model = memvp(make_tiny("qwen3_moe", **settings))
    ids, features = batch(batch=1, images=1)
    inputs = inputs_for("qwen3_moe", ids)
    wanted = make_concatenated(model, features[0])
    torch.testing.assert_close(
        model(**inputs, visual_features=features).logits, wanted(**inputs).logits, **CLOSE_EXPERTS
    )
    found = grads(model, model.prompt, **inputs, visual_features=features)
    assert_same_grads(found, grads(wanted, wanted.prompt_of_oracle, **inputs), rtol=1e-3, atol=1e-6)


@EVERY
def test_every_form_equals_the_reference(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name), form="reference")
    ids, features = batch()
    arguments = inputs_for(name, ids) | {"visual_features": features, "image_index": torch.tensor(INDEX)}
    wanted, wanted_grads = model(**arguments).logits, grads(model, model.prompt, **arguments)
    for form in ("direct", "split", "factored", "auto"):
        same = memvp(make_tiny(name), form=form)
        torch.testing.assert_close(same(**arguments).logits, wanted, **CLOSE)
        assert_same_grads(grads(same, same.prompt, **arguments), wanted_grads, rtol=1e-5, atol=1e-8)


@EVERY
def test_taken_out_it_leaves_no_trace(name: str, memvp, batch) -> None:
    ids, features = batch(images=4)
    base = make_tiny(name)
    base.requires_grad_(False)
    inputs = inputs_for(name, ids)
    keys, before = list(base.state_dict()), base(**inputs).logits
    attributes = {path: set(vars(module)) for path, module in base.named_modules()}
    model = memvp(base)
    assert list(base.state_dict()) == keys
    assert model.trainable_state().keys() == MEMORY_NAMES
    assert not torch.equal(model(**inputs, visual_features=features).logits, before)
    with model.disable_adapter():
        assert torch.equal(model(**inputs, visual_features=features).logits, before)
    assert model.unload() is base
    assert torch.equal(base(**inputs).logits, before)
    assert {path: set(vars(module)) for path, module in base.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())


def padded(ids: Tensor, lengths: list[int], *, left: bool, extra: int) -> dict[str, Tensor]:
    """Each row keeps its last tokens, and has `extra` columns of padding besides."""
    width = ids.shape[1] + extra
    pairs = zip(ids, lengths, strict=True)
    rows = [torch.nn.functional.pad(row[-n:], (width - n, 0) if left else (0, width - n)) for row, n in pairs]
    return {"input_ids": torch.stack(rows), "attention_mask": (torch.stack(rows) != 0).long()}


@EVERY
def test_greedy_answers_equal_a_loop_without_cache(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name))
    ids, features = batch()
    memory = model.encode(features)
    # BART numbers its positions from the first column on, padding or not.
    inputs = padded(ids, [6, 3, 5, 2], left=name not in ENCODER_DECODERS, extra=2)
    found = model.generate(**inputs, memory=memory, image_index=torch.tensor(INDEX), **GREEDY)
    for row, (image, length) in enumerate(zip(INDEX, [6, 3, 5, 2], strict=True)):
        wanted = greedy_loop(name, model, ids[row : row + 1, -length:], features, image=image)
        assert found[row, -NEW_TOKENS:].tolist() == wanted


def greedy_loop(name: str, model: Any, ids: Tensor, features: Tensor, *, image: int) -> list[int]:
    """One sequence without padding; everything is computed anew for each token."""
    seen = {"visual_features": features, "image_index": torch.tensor([image]), "use_cache": False}
    start = model.language_model.generation_config.decoder_start_token_id
    target = ids if name not in ENCODER_DECODERS else torch.tensor([[start]])
    for step in range(NEW_TOKENS):
        if name in ENCODER_DECODERS:
            logits = model(ids, decoder_input_ids=target, **seen).logits[:, -1]
        else:
            logits = model(target, **seen).logits[:, -1]
        # min_new_tokens forbids the end; BART is made to end with it.
        logits[:, 2] = -torch.inf
        forced = model.language_model.generation_config.forced_eos_token_id
        ends = forced is not None and step == NEW_TOKENS - 1
        token = torch.tensor([[forced]]) if ends else logits.argmax(-1, keepdim=True)
        target = torch.cat([target, token], dim=1)
    return target[0, -NEW_TOKENS:].tolist()


@EVERY
def test_beams_equal_those_of_the_concatenated_model(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name))
    ids, features = batch(tokens=4)
    settings = GREEDY | {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 3, "min_new_tokens": 3}
    found = model.generate(ids, memory=model.encode(features), image_index=torch.tensor(INDEX), **settings)
    for row, image in enumerate(INDEX[:3]):
        alone = make_concatenated(model, None if image < 0 else features[image])
        wanted = alone.generate(ids[row : row + 1], **settings)
        assert found[2 * row : 2 * row + 2].tolist() == wanted.tolist()


@EVERY
def test_seeded_samples_equal_a_loop(name: str, memvp, batch) -> None:
    """One draw per token from softmax(logits), in the order in which transformers draws."""
    model = memvp(make_tiny(name, forced_eos_token_id=None) if name == "bart" else make_tiny(name))
    ids, features = batch(batch=1, images=1)
    settings = GREEDY | {"do_sample": True, "top_k": 0, "top_p": 1.0}
    torch.manual_seed(3)
    found = model.generate(ids, visual_features=features, **settings)
    torch.manual_seed(3)
    start = model.language_model.generation_config.decoder_start_token_id
    target = ids if name not in ENCODER_DECODERS else torch.tensor([[start]])
    for _ in range(NEW_TOKENS):
        text = {"input_ids": ids, "decoder_input_ids": target} if name in ENCODER_DECODERS else {"input_ids": target}
        logits = model(**text, visual_features=features, use_cache=False).logits[:, -1].float()
        logits[:, 2] = -torch.inf
        target = torch.cat([target, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    assert found.tolist() == target.tolist()


@EVERY
def test_company_and_padding_change_nothing(name: str, memvp, batch) -> None:
    """A row alone, in a batch of eight, with padding on either side, or with its own copy of a shared image."""
    model = memvp(make_tiny(name))
    ids, features = batch(batch=8, tokens=5)
    index = torch.tensor([0, 1, 2, -1, 2, 2, 0, -1])
    target = {"decoder_input_ids": ids[:, :3]} if name in ENCODER_DECODERS else {}
    together = model(ids, **target, visual_features=features, image_index=index).logits
    copies = torch.cat([features, torch.zeros_like(features[:1])])[index]
    own = torch.where(index < 0, -1, torch.arange(8))
    copied = model(ids, **target, visual_features=copies, image_index=own).logits
    torch.testing.assert_close(copied, together, **CLOSE)
    for row in (0, 3, 5):
        mine = {name: tensor[row : row + 1] for name, tensor in target.items()}
        seen = {"visual_features": features, "image_index": index[row : row + 1]}
        alone = model(ids[row : row + 1], **mine, **seen).logits
        torch.testing.assert_close(alone, together[row : row + 1], **CLOSE)
        mask = torch.tensor([[1] * 5 + [0] * 3])
        longer = torch.nn.functional.pad(ids[row : row + 1], (0, 3))
        on_right = model(longer, mask, **mine, **seen).logits
        torch.testing.assert_close(on_right[:, : together.shape[1]], together[row : row + 1], **CLOSE)


@EVERY
def test_gradient_checkpointing_changes_nothing(name: str, memvp, batch) -> None:
    """Two forwards before one backward: an image left lying after forward would give the first batch the second's."""
    ids, features = batch(images=8)
    inputs = inputs_for(name, ids)

    def two_then_backward(model: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        first = model(**inputs, visual_features=features[:4], use_cache=False).loss
        second = model(**inputs, visual_features=features[4:], use_cache=False).loss
        (first + 2 * second).backward()
        return {name: parameter.grad for name, parameter in model.prompt.named_parameters()}

    # T5 checks in training mode only; its dropout draws the same masks again.
    plain, saving = memvp(make_tiny(name)).train(), memvp(make_tiny(name)).train()
    saving.gradient_checkpointing_enable()
    assert_same_grads(two_then_backward(saving), two_then_backward(plain), rtol=1e-9, atol=1e-12)


@EVERY
def test_two_threads_keep_their_images_apart(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name))
    ids, features = batch(batch=2)
    inputs = inputs_for(name, ids)
    indexes = [torch.tensor([number % 3, -1]) for number in range(12)]

    def answer(index: Tensor) -> Tensor:
        with torch.no_grad():
            return model(**inputs, visual_features=features, image_index=index).logits

    wanted = [answer(index) for index in indexes[:3]]
    with ThreadPoolExecutor(max_workers=2) as pool:
        for number, found in enumerate(pool.map(answer, indexes)):
            torch.testing.assert_close(found, wanted[number % 3], rtol=1e-12, atol=1e-12)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
def test_shorter_types_follow_float64(name: str, dtype: torch.dtype, memvp, batch) -> None:
    """The memory adds no more rounding than the base model's own: errors are set against those without a memory."""
    ids, features = batch()
    inputs = inputs_for(name, ids) | {"visual_features": features, "image_index": torch.tensor(INDEX)}
    exact = memvp(make_tiny(name), visual_scale=0.1)
    short = memvp(make_tiny(name, dtype=dtype), visual_scale=0.1)
    short.prompt.load_state_dict(exact.prompt.state_dict())
    found, wanted = short(**inputs).logits, exact(**inputs).logits
    with short.disable_adapter(), exact.disable_adapter():
        unavoidable = (short(**inputs).logits.double() - exact(**inputs).logits).norm()
    # Random logits amplify a rounding by chance; three times the base model's own error is still the same kind.
    assert (found.double() - wanted).norm() < 3 * unavoidable + 1e-9
    assert found.dtype == dtype


@EVERY
def test_eager_attention_and_static_cache_answer_alike(name: str, memvp, batch) -> None:
    ids, features = batch()
    answers = []
    for settings in ({}, {"attn_implementation": "eager"}, {"cache": "static"}):
        base = make_tiny(name)
        if "attn_implementation" in settings:
            base.set_attn_implementation("eager")
        model = memvp(base)
        cache = {"cache_implementation": "static"} if "cache" in settings else {}
        arguments = {"memory": model.encode(features), "image_index": torch.tensor(INDEX)}
        answers.append(model.generate(ids, **arguments, **cache, **GREEDY))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@EVERY
def test_built_on_the_meta_device_it_has_the_same_parameters(name: str, memvp) -> None:
    with torch.device("meta"):
        base = make_tiny(name)
    model = memvp(base)
    real = memvp(make_tiny(name)).trainable_state()
    found = {key: value.shape for key, value in model.trainable_state().items()}
    assert all(value.device.type == "meta" for value in model.trainable_state().values())
    assert found == {key: value.shape for key, value in real.items()}


@EVERY
def test_a_deep_copy_reads_its_own_images(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name))
    ids, features = batch(images=4)
    inputs = inputs_for(name, ids)
    before = model(**inputs, visual_features=features).logits
    twin = copy.deepcopy(model)
    torch.nn.init.zeros_(twin.prompt.value_positions)
    assert not torch.equal(twin(**inputs, visual_features=features).logits, before)
    assert torch.equal(model(**inputs, visual_features=features).logits, before)
