"""The whole model against the base model with the rows written into its FFN weights, in value and every gradient."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

# The RMSNorms of transformers round to float32 inside: agreement ends there.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}

MEMORY_NAMES = {
    "prompt.key_positions",
    "prompt.value_positions",
    "prompt.projector.0.weight",
    "prompt.projector.0.bias",
    "prompt.projector.2.weight",
    "prompt.projector.2.bias",
}


def lora_config(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]} | settings)


def randomize_lora(model: Any) -> None:
    torch.manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def expected_logits(model: Any, oracle: Any, ids: Tensor, features: Tensor, index: list[int]) -> Tensor:
    rows = [
        oracle(model, None if image < 0 else features[image])(row[None]).logits
        for row, image in zip(ids, index, strict=True)
    ]
    return torch.cat(rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"form": "direct"},
        {"form": "split"},
        {"form": "factored"},
        {"form": "reference"},
        {"share_position_embedding": False, "form": "direct"},
        {"share_position_embedding": False, "form": "split"},
        {"learn_scales": True},
        {"retrieval_gate": True},
        {"layers_to_transform": [1], "projector_hidden_sizes": [], "projector_bias": False},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_logits_equal_the_concatenated_model(memvp, oracle, batch, settings: dict[str, Any]) -> None:
    model = memvp(**settings)
    ids, features = batch()
    index = [1, -1, 0, 1]
    logits = model(ids, visual_features=features, image_index=torch.tensor(index)).logits
    torch.testing.assert_close(logits, expected_logits(model, oracle, ids, features, index), **TOLERANCE)


@pytest.mark.parametrize("form", ["direct", "split", "factored"])
def test_every_gradient_equals_the_concatenated_model(memvp, oracle, batch, form: str) -> None:
    model = memvp(form=form, learn_scales=True, retrieval_gate=True)
    ids, features = batch(batch=1, images=1)
    model(ids, labels=ids, visual_features=features).loss.backward()
    concatenated = oracle(model, features[0])
    concatenated(ids, labels=ids).loss.backward()
    wanted = dict(concatenated.prompt_of_oracle.named_parameters())
    found = dict(model.prompt.named_parameters())
    assert found.keys() == wanted.keys()
    for name, parameter in found.items():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-5, atol=1e-7)


def test_trainable_names_are_the_memorys(memvp) -> None:
    assert memvp().trainable_state().keys() == MEMORY_NAMES


def test_trainable_names_with_lora(memvp) -> None:
    model = memvp()
    model.add_lora(lora_config())
    lora = {
        f"language_model.model.layers.{layer}.{module}.lora_{matrix}.default.weight"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for matrix in "AB"
    }
    assert model.trainable_state().keys() == MEMORY_NAMES | lora
    assert all(model.trainable_state()[name] is dict(model.named_parameters())[name] for name in lora)


def test_lora_and_memory_work_together(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    model = memvp()
    plain = model(ids, visual_features=features).logits
    model.add_lora(lora_config())
    torch.testing.assert_close(model(ids, visual_features=features).logits, plain, rtol=0, atol=0)
    randomize_lora(model)
    tuned = model(ids, visual_features=features).logits
    from peft import get_peft_model

    wrapped = memvp(get_peft_model(llama(), lora_config()))
    randomize_lora(wrapped)
    assert not torch.allclose(tuned, plain)
    torch.testing.assert_close(wrapped(ids, visual_features=features).logits, tuned, rtol=0, atol=0)
    assert wrapped.trainable_state().keys() > MEMORY_NAMES
    assert len(wrapped.trainable_state()) == len(model.trainable_state())


def test_wrapping_in_get_peft_model_is_refused(memvp) -> None:
    from peft import get_peft_model

    with pytest.raises(ValueError, match=r"use model\.add_lora"):
        get_peft_model(memvp(), lora_config(target_modules="all-linear"))


def test_second_lora_is_refused(memvp) -> None:
    model = memvp()
    model.add_lora(lora_config())
    with pytest.raises(ValueError, match="has a LoRA already"):
        model.add_lora(lora_config())


def test_unload_leaves_no_trace(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    base = llama()
    names, before = list(base.state_dict()), base(ids).logits
    attributes = {path: set(vars(module)) for path, module in base.named_modules()}
    model = memvp(base)
    assert list(base.state_dict()) == names
    model.gradient_checkpointing_enable()
    changed = model.train()(ids, labels=ids, visual_features=features)
    changed.loss.backward()
    model.gradient_checkpointing_disable()
    model.eval()
    assert not torch.allclose(changed.logits, before)
    # A hook on the embedding that transformers itself adds and forgets.
    base.disable_input_require_grads()
    # The same requires_grad state, or another attention kernel may be chosen.
    assert model.unload() is base
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert torch.equal(base(ids).logits, before)
    assert not any(module._forward_hooks for module in base.modules())
    # What transformers itself leaves behind after checkpointing.
    left = {path: set(vars(module)) - attributes[path] for path, module in base.named_modules()}
    assert set().union(*left.values()) <= {
        "_gradient_checkpointing_func",
        "gradient_checkpointing",
        "_require_grads_hooks",
    }
    assert not any("memvp" in repr(getattr(m, "_gradient_checkpointing_func", "")) for m in base.modules())


def test_base_weights_are_untouched_by_training(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    base = llama()
    before = copy.deepcopy(base.state_dict())
    model = memvp(base)
    model(ids, labels=ids, visual_features=features).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(parameter.grad is None for parameter in base.parameters())


def test_disabled_model_is_the_base_bit_for_bit(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    base = llama().requires_grad_(False)
    before, generated = base(ids).logits, base.generate(ids, max_new_tokens=3, do_sample=False)
    model = memvp(base)
    model.add_lora(lora_config())
    randomize_lora(model)
    after = model(ids, visual_features=features).logits
    trainable = model.trainable_state().keys()
    with model.disable_adapter():
        assert torch.equal(model(ids, visual_features=features).logits, before)
        assert torch.equal(model(ids).logits, before)
        assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), generated)
    assert torch.equal(model(ids, visual_features=features).logits, after)
    assert model.trainable_state().keys() == trainable


def test_image_free_rows_read_positions_or_nothing(memvp, llama, batch) -> None:
    ids, features = batch(images=4)
    before = llama()(ids).logits
    nowhere = torch.full((4,), -1)
    positions = memvp()
    logits = positions(ids, visual_features=features, image_index=nowhere).logits
    assert not torch.allclose(logits, before)
    torch.testing.assert_close(positions(ids).logits, logits, **TOLERANCE)
    base_like = memvp(no_image="base")
    mixed = base_like(ids, visual_features=features, image_index=torch.tensor([-1, 0, -1, 1])).logits
    torch.testing.assert_close(mixed[[0, 2]], before[[0, 2]], **TOLERANCE)
    torch.testing.assert_close(base_like(ids).logits, before, rtol=0, atol=0)
    assert not torch.allclose(mixed[[1, 3]], before[[1, 3]])


@pytest.mark.parametrize("no_image", ["positions", "base"])
@pytest.mark.parametrize("num_images", [0, 2])
def test_image_free_batch_gives_zero_gradients_not_none(memvp, batch, num_images: int, no_image: str) -> None:
    model = memvp(no_image=no_image)
    ids, features = batch(images=num_images)
    model(ids, labels=ids, visual_features=features, image_index=torch.full((4,), -1)).loss.backward()
    for name, parameter in model.trainable_state().items():
        assert parameter.grad is not None, name
        if "projector" in name or no_image == "base":
            assert not parameter.grad.any(), name
    assert bool(model.prompt.key_positions.grad.any()) is (no_image == "positions")


def test_batch_composition_changes_no_answer(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(batch=6, images=3)
    index = torch.tensor([2, 0, -1, 2, 1, 2])
    together = model(ids, visual_features=features, image_index=index).logits
    for row in range(6):
        alone = model(ids[row : row + 1], visual_features=features, image_index=index[row : row + 1]).logits
        torch.testing.assert_close(alone[0], together[row], **TOLERANCE)


def test_shared_image_equals_copies(memvp, batch) -> None:
    ids, features = batch(images=2)
    index = torch.tensor([1, 0, 1, 1])
    shared, copied = memvp(), memvp()
    shared(ids, labels=ids, visual_features=features, image_index=index).loss.backward()
    copied(ids, labels=ids, visual_features=features[index]).loss.backward()
    for name, parameter in shared.trainable_state().items():
        torch.testing.assert_close(parameter.grad, copied.trainable_state()[name].grad, rtol=1e-5, atol=1e-8)


def test_memory_equals_features(memvp, batch) -> None:
    model = memvp()
    ids, features = batch()
    index = torch.tensor([1, 0, -1, 2])
    memory = model.encode(features)
    out = model(ids, memory=memory, image_index=index).logits
    torch.testing.assert_close(out, model(ids, visual_features=features, image_index=index).logits, rtol=0, atol=0)


def test_packed_sequences_equal_separate_ones(memvp, batch) -> None:
    """Two samples in one row, each token reading its own image, kept apart by the attention mask and positions."""
    model = memvp()
    ids, features = batch(batch=2, tokens=3)
    separate = model(ids, visual_features=features, image_index=torch.tensor([2, 0])).logits
    mask = torch.block_diag(*[torch.ones(3, 3).tril()] * 2).bool()[None, None]
    packed = model(
        ids.reshape(1, 6),
        mask,
        visual_features=features,
        image_index=torch.tensor([[2, 2, 2, 0, 0, 0]]),
        position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]),
    ).logits
    torch.testing.assert_close(packed.view_as(separate), separate, **TOLERANCE)


def test_dropout_acts_in_training_only(memvp, batch) -> None:
    model = memvp(memory_dropout=0.5)
    ids, features = batch(images=4)
    first, second = (model(ids, visual_features=features).logits for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (model(ids, visual_features=features).logits for _ in range(2))
    assert not torch.allclose(first, second)


def test_copies_are_independent(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    before = model(ids, visual_features=features).logits
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(ids, visual_features=features).logits, before, rtol=0, atol=0)
    with torch.no_grad():
        twin.prompt.value_positions.add_(1.0)
    assert not torch.allclose(twin(ids, visual_features=features).logits, before)
    assert torch.equal(model(ids, visual_features=features).logits, before)
    twin.unload()
    assert torch.equal(model(ids, visual_features=features).logits, before)


def test_threads_read_their_own_images(memvp, batch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = memvp(num_slots=4)
    ids, features = batch(batch=1, images=6)
    with torch.no_grad():
        alone = [model(ids, visual_features=features[number][None]).logits for number in range(6)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(_logits, model, ids, features[number % 6][None]) for number in range(48)]
        wrong = [number for number, job in enumerate(jobs) if not torch.equal(job.result(), alone[number % 6])]
    assert not wrong


def _logits(model: Any, ids: Tensor, features: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, visual_features=features).logits


@pytest.mark.parametrize("cast_whole_model", [False, True], ids=["base_only", "whole_module"])
def test_bfloat16(memvp, llama, batch, cast_whole_model: bool) -> None:
    base = llama().float()
    ids, features = batch(images=4)
    wide = memvp(base)(ids, visual_features=features.float()).logits
    model = memvp(llama().bfloat16())
    assert model.prompt.dtype == torch.float32
    if cast_whole_model:
        model.bfloat16()
    out = model(ids, labels=ids, visual_features=features.float())
    out.loss.backward()
    assert out.logits.dtype == torch.bfloat16
    assert all(parameter.grad.isfinite().all() for parameter in model.trainable_state().values())
    # Every sum is rounded by 2^-9, some ten in a row; another image moves the logits by a third.
    assert (out.logits.float() - wide).norm() < 2**-4 * wide.norm()
    assert model.encode(features).codes.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"visual_features": torch.zeros(4, 4, 9)}, r"must have the shape \(images, rows, 6\), got \(4, 4, 9\)"),
        ({"visual_features": torch.zeros(4, 8, 6)}, "has 8 rows here, but the memory has only 5 slots"),
        ({"visual_features": torch.zeros(3, 4, 6)}, "3 images for 4 sequences: give image_index"),
        (
            {"visual_features": torch.zeros(3, 4, 6), "image_index": torch.tensor([0, 1, 2, 3])},
            "image_index holds 3, but there are 3 images",
        ),
        (
            {"visual_features": torch.zeros(3, 4, 6), "image_index": torch.tensor([0, 1, 2, -2])},
            "image_index holds -2",
        ),
        ({"image_index": torch.zeros(4, dtype=torch.long)}, "there are 0 images"),
    ],
)
def test_wrong_images_are_refused(memvp, batch, arguments: dict[str, Tensor], message: str) -> None:
    ids, _ = batch()
    with pytest.raises(ValueError, match=message):
        memvp()(ids, **arguments)


def test_index_of_another_shape_is_refused() -> None:
    from memvp_core.memory.reading import checked_index

    with pytest.raises(ValueError, match=r"one per sequence \(4,\) or per token \(4, 6\)"):
        checked_index(torch.zeros(3, dtype=torch.long), batch_shape=torch.Size((4, 6)), num_images=1, has_images=True)


def test_memory_and_features_together_are_refused(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    with pytest.raises(ValueError, match="not both"):
        model(ids, visual_features=features, memory=model.encode(features))


def test_memory_of_another_projector_is_refused(memvp, batch) -> None:
    ids, features = batch(images=4)
    memory = memvp(seed=1).encode(features)
    with pytest.raises(ValueError, match="encode the images again"):
        memvp(seed=2)(ids, memory=memory)


def test_missing_layer_is_refused(memvp) -> None:
    with pytest.raises(ValueError, match=r"names \[7\], but the model's layers are 0 to 1"):
        memvp(layers_to_transform=[0, 7])


@pytest.mark.parametrize("layers", [None, [1]], ids=["same_layers", "other_layers"])
def test_second_memory_on_a_language_model_is_refused(memvp, llama, batch, layers: Any) -> None:
    """As a notebook's cell makes it that is run twice; with checkpointing its gradients would be missing."""
    ids, features = batch(images=4)
    base = llama()
    first = memvp(base, layers_to_transform=None if layers is None else [0])
    wanted = first(ids, visual_features=features).logits
    with pytest.raises(ValueError, match=r"has a memory already.*call unload\(\) on the first"):
        memvp(base, layers_to_transform=layers)
    assert torch.equal(first(ids, visual_features=features).logits, wanted)
    assert not any(parameter.requires_grad for parameter in base.parameters())
    first.unload()
    again = memvp(base)
    again.train().gradient_checkpointing_enable()
    again(ids, labels=ids, visual_features=features).loss.backward()
    assert all(parameter.grad is not None for parameter in again.trainable_state().values())
