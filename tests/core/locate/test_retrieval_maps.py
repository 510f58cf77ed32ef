"""Retrieval maps against one dot product at a time, and against what the layers of every architecture activate."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from memvp_core import VisualMemory
from memvp_core.locate import mask_rows, mean_over_layers, mean_over_tokens, on_grid, retrieval_map, scale_rows
from memvp_core.memory import forms as retrieval
from memvp_core.memory.reading import Reading
from tests.core.tiny_models import ARCHITECTURES, ENCODER_DECODERS, make_tiny

# The norms of transformers round to float32 inside, differently where a batch is split.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize("keys", ["visual", "full"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per_layer"])
def test_map_holds_the_activations_of_the_images_rows(memvp, batch, keys: str, shared: bool) -> None:
    model = memvp(share_position_embedding=shared)
    ids, features = batch(images=3)
    index = torch.tensor([2, -1, 0, 2])
    memory = model.encode(features)
    found = retrieval_map(model, input_ids=ids, memory=memory, image_index=index, keys=keys)
    assert found.shape == (2, 4, 6, 4)
    assert found.dtype == torch.float64

    inputs = []
    hooks = [
        model.language_model.get_submodule(site.first).register_forward_hook(
            lambda _, args, out: inputs.append(args[0])
        )
        for site in model.injection.sites
    ]
    model(ids, memory=memory, image_index=index)
    for hook in hooks:
        hook.remove()
    for layer, token, row in [(0, 0, 0), (1, 5, 3), (1, 2, 1)]:
        for b, image in enumerate(index.tolist()):
            if image < 0:
                assert not found[layer, b].any()
                continue
            key = model.memvp_config.visual_scale * model.prompt.projector(features[image, row])
            if keys == "full":
                positions = model.prompt.key_positions
                key = key + (positions[row] if shared else positions[layer, row])
            wanted = functional.silu(torch.dot(inputs[layer][b, token], key))
            torch.testing.assert_close(found[layer, b, token, row], wanted.detach(), **CLOSE)


def activated(model: Any, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Layer by layer while the model runs: the states x, and s phi(<x, key>) of each slot, both (B, T, ...)."""
    states, slots = [], []
    look_up, slot_values = Reading.retrieve, retrieval.slot_values

    def keep_states(self: Any, x: Tensor, **settings: Any) -> Tensor:
        states.append(x)
        return look_up(self, x, **settings)

    def keep_slots(active: Tensor, **settings: Any) -> Tensor:
        slots.append(active)
        return slot_values(active, **settings)

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(Reading, "retrieve", keep_states)
        patched.setattr(retrieval, "slot_values", keep_slots)
        model(**inputs)
    return states, slots


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_shows_what_its_layers_do(name: str, memvp, batch, monkeypatch) -> None:
    model = memvp(make_tiny(name), form="split", share_position_embedding=False)
    ids, features = batch(images=4)
    memory = scale_rows(mask_rows(model.encode(features), [1], entry=2), [0], 0.5)
    inputs = {"input_ids": ids, "memory": memory}
    targets = {"decoder_input_ids": ids[:, :3]} if name in ENCODER_DECODERS else {}
    states, slots = activated(model, monkeypatch, **inputs, **targets)
    full = retrieval_map(model, **inputs, keys="full")
    assert full.shape == (2, 4, 6, 4)
    torch.testing.assert_close(model.memvp_config.retrieval_scale * full, torch.stack(slots)[..., :4], **CLOSE)

    visual = retrieval_map(model, **inputs)
    rows = model.memvp_config.visual_scale * model.prompt.projector(features)
    for layer, site in enumerate(model.injection.sites):
        *parents, last = site.activation.split(".")
        phi = getattr(model.language_model.get_submodule(".".join(parents)), last)
        for b, token, row in [(0, 0, 0), (1, 5, 3), (2, 2, 2)]:
            key = rows[b, row] * (0.5 if row == 0 else 1.0)
            wanted = phi(torch.dot(states[layer][b, token], key)).detach()
            torch.testing.assert_close(visual[layer, b, token, row], wanted, **CLOSE)
    assert not visual[:, 2, :, 1].any()


@pytest.mark.parametrize("name", ENCODER_DECODERS)
@pytest.mark.parametrize("target", ["encoder", "decoder", "both"])
def test_either_stack_of_an_encoder_decoder(name: str, target: str, memvp, batch, monkeypatch) -> None:
    model = memvp(make_tiny(name), form="split", target_stack=target)
    ids, features = batch(images=4)
    inputs = {"input_ids": ids, "memory": model.encode(features)}
    _, slots = activated(model, monkeypatch, **inputs, decoder_input_ids=ids[:, :3])
    stacks = ["encoder", "decoder"] if target == "both" else [target]
    for number, stack in enumerate(stacks):
        wanted = torch.stack(slots[2 * number : 2 * number + 2])[..., :4] / model.memvp_config.retrieval_scale
        found = retrieval_map(model, **inputs, keys="full", stack=stack, decoder_input_ids=ids[:, :3])
        torch.testing.assert_close(found, wanted, **CLOSE)
    # The encoder does not depend on what is decoded; the decoder begins with its start token.
    found = retrieval_map(model, **inputs)
    assert found.shape == (2, 4, 1 if target == "decoder" else 6, 4)
    if target != "both":
        other = "decoder" if target == "encoder" else "encoder"
        with pytest.raises(
            ValueError, match=f'no {other} layer of this model has the memory, only such as .*: use "auto"'
        ):
            retrieval_map(model, **inputs, stack=other)


@pytest.mark.parametrize(
    "settings",
    [
        {"position_mode": "concat", "num_slots": 3},
        {"insert_in": "keys"},
        {"insert_in": "values"},
        {"num_images": 2, "padded_rows": "masked"},
        {"share_position_embedding": True, "projector_hidden_sizes": []},
        {"layers_to_transform": [1]},
    ],
    ids=lambda settings: "_".join(map(str, settings.values())),
)
def test_full_keys_are_those_of_the_layer(memvp, batch, monkeypatch, settings: dict[str, Any]) -> None:
    """With entries of different lengths, blocked and weakened rows."""
    model = memvp(form="split", **settings)
    ids, features = batch(images=4)
    memory = VisualMemory.cat([model.encode(features[:3]), model.encode(features[3:, :2])])
    memory = scale_rows(mask_rows(memory, [0], entry=1), [1], 0.25)
    inputs = {"input_ids": ids, "memory": memory}
    _, slots = activated(model, monkeypatch, **inputs)
    found = retrieval_map(model, **inputs, keys="full")
    wanted = torch.stack(slots)[..., :4] / model.memvp_config.retrieval_scale
    # What a padded row activates is that of its position, or of no row at all: it shows nothing of an image.
    wanted[:, 3, :, 2:] = 0.0
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert not found[:, 1, :, 0].any()


def test_map_without_an_image_in_the_keys_is_refused(memvp, batch) -> None:
    ids, features = batch(images=4)
    for insert_in, hint in (("values", 'use keys="full"'), ("none", r"\.")):
        model = memvp(insert_in=insert_in)
        with pytest.raises(ValueError, match=f'insert_in is "{insert_in}", so no key .* show nothing of it.*{hint}'):
            retrieval_map(model, input_ids=ids, memory=model.encode(features))


def test_each_token_can_have_its_own_image(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(batch=2, tokens=3)
    memory = model.encode(features)
    separate = retrieval_map(model, input_ids=ids, memory=memory, image_index=torch.tensor([2, 0]))
    packed = retrieval_map(
        model,
        input_ids=ids.reshape(1, 6),
        attention_mask=torch.block_diag(*[torch.ones(3, 3).tril()] * 2).bool()[None, None],
        memory=memory,
        image_index=torch.tensor([[2, 2, 2, 0, 0, 0]]),
        position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]),
    )
    torch.testing.assert_close(packed.view_as(separate), separate, **CLOSE)
    holes = retrieval_map(model, input_ids=ids, memory=memory, image_index=torch.tensor([[2, -1, 2], [0, 0, -1]]))
    assert not holes[:, 0, 1].any()
    assert holes[:, 0, 2].all()


def test_order_of_images_is_the_default(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = model.encode(features)
    plain = retrieval_map(model, input_ids=ids, memory=memory)
    assert torch.equal(plain, retrieval_map(model, input_ids=ids, memory=memory, image_index=torch.arange(4)))


def test_looking_leaves_no_trace(memvp, batch) -> None:
    model = memvp(make_tiny("opt"))
    ids, features = batch(images=4)
    memory = model.encode(features)
    before = model(ids, memory=memory).logits
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    retrieval_map(model, input_ids=ids, memory=memory)
    with pytest.raises(ValueError, match="3 images for 4 sequences"):
        retrieval_map(model, input_ids=ids, memory=memory[:3])
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert torch.equal(model(ids, memory=memory).logits, before)


def test_bfloat16_maps_are_kept_in_float32(memvp, batch) -> None:
    ids, features = batch(images=4)
    wide = memvp(make_tiny().float())
    short = memvp(make_tiny().bfloat16())
    found = retrieval_map(short, input_ids=ids, memory=short.encode(features))
    wanted = retrieval_map(wide, input_ids=ids, memory=wide.encode(features.float()))
    assert found.dtype == torch.float32
    # bfloat16 rounds by 2^-9, a few times in a row.
    assert (found - wanted).norm() < 2**-5 * wanted.norm()


def test_means_and_grid() -> None:
    scores = torch.randn(3, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_over_layers(scores), (scores[0] + scores[1] + scores[2]) / 3)
    torch.testing.assert_close(mean_over_layers(scores, layers=[0, -1]), (scores[0] + scores[2]) / 2)
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]])
    means = mean_over_tokens(scores, mask=mask)
    torch.testing.assert_close(means[:, 0], (scores[:, 0, 1] + scores[:, 0, 2] + scores[:, 0, 3]) / 3)
    torch.testing.assert_close(means[:, 1], scores[:, 1, 3])
    torch.testing.assert_close(mean_over_tokens(mean_over_layers(scores), mask=mask.bool()), means.mean(0))
    laid = on_grid(means, grid=(2, 3))
    assert laid.shape == (3, 2, 2, 3)
    assert all(torch.equal(laid[..., number // 3, number % 3], means[..., number]) for number in range(6))


def test_impossible_looks_are_refused(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = model.encode(features)
    with pytest.raises(ValueError, match='keys must be "visual" or "full"'):
        retrieval_map(model, input_ids=ids, memory=memory, keys="all")
    with pytest.raises(ValueError, match='stack must be "auto", "encoder" or "decoder"'):
        retrieval_map(model, input_ids=ids, memory=memory, stack="both")
    scores = torch.zeros(3, 2, 4, 6)
    with pytest.raises(ValueError, match=r"some of the 3 layers of this map, got \[3\]: use 0 to 2"):
        mean_over_layers(scores, layers=[3])
    with pytest.raises(ValueError, match=r"each token of the map, \(2, 4\); got the shape \(2, 3\)"):
        mean_over_tokens(scores, mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="marks no token of some sequence"):
        mean_over_tokens(scores, mask=torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="a grid of 2 x 2 patches has 4 rows, but the map has 6"):
        on_grid(scores, grid=(2, 2))
