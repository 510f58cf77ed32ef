"""Every setting of MemVPConfig in a model: rows of the paper's Table 4, and choices it leaves open."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memvp_core import MemVPConfig, VisualMemory
from memvp_core.backbones import FFNSite
from memvp_core.reference import retrieval
from tests.core.tiny_models import make_tiny

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_visual_rows": {"insert_in": "none"},
    "no_visual_rows_and_image_free_is_base": {"insert_in": "none", "no_image": "base"},
    "keys_only": {"insert_in": "keys"},
    "values_only": {"insert_in": "values"},
    "concatenated": {"position_mode": "concat"},
    "concatenated_fewer_slots_than_rows": {"position_mode": "concat", "num_slots": 2},
    "per_layer": {"share_position_embedding": False},
    "linear_projector": {"projector_hidden_sizes": ()},
    "no_bias": {"projector_bias": False},
    "deeper_projector": {"projector_hidden_sizes": (9, 8, 7), "projector_activation": "gelu"},
    "wide_projector": {"projector_hidden_sizes": (24,), "form": "split"},
    "as_many_slots_as_rows": {"num_slots": 4},
    "masked_padding": {"padded_rows": "masked"},
    "image_free_is_base": {"no_image": "base"},
    "learned_scales": {"learn_scales": True},
    "gated": {"retrieval_gate": True},
    "gated_and_learned_scales": {"retrieval_gate": True, "learn_scales": True},
    "some_layers_gated": {"layers_to_transform": (1,), "retrieval_gate": True, "retrieval_scale": 1.0},
    "some_layers": {"layers_to_transform": (1,)},
    "two_images": {"num_images": 2},
    "all_at_once": {"num_images": 2, "position_mode": "concat", "no_image": "base", "share_position_embedding": False},
}
ROW_IMAGES = torch.tensor([[0, 0, 1, 1], [0, 1, -1, -1], [0, 0, 0, -1]])


def looped(model: Any, ids: Tensor, features: Tensor, index: list[int], row_images: Tensor) -> Tensor:
    """The equation written out for one row of the batch at a time, in hooks of the test's own."""
    language_model, config, prompt = model.language_model, model.memvp_config, model.prompt
    out = []
    for row, image in zip(ids, index, strict=True):
        handles = []
        for number, site in enumerate(model.injection.sites):
            keys, values, live = slots(prompt, config, features, row_images, image=image, layer=number)
            gate = prompt.retrieval_gates[number] if config.retrieval_gate else 1
            s = gate * scale(config.retrieval_scale, prompt, "retrieval_scale")

            def add(ffn: Any, args: tuple[Tensor, ...], output: Tensor, rows: Any = (keys, values, live, s)) -> Tensor:
                keys, values = (part[rows[2]] for part in rows[:2])
                found = [retrieval(x, keys=keys, values=values, activation=ffn.act_fn) for x in args[0][0]]
                return output + rows[3] * torch.stack(found)[None]

            handles.append(language_model.get_submodule(site.last).register_forward_hook(add))
        with model.disable_adapter():
            out.append(language_model(row[None]).logits)
        for handle in handles:
            handle.remove()
    return torch.cat(out)


def scale(value: float, prompt: Any, name: str) -> Any:
    return getattr(prompt, name) if prompt.config.learn_scales else value


def slots(prompt: Any, config: Any, features: Tensor, row_images: Tensor, *, image: int, layer: int) -> Any:
    """Keys, values and which of them may be active, for one image (or -1)."""
    keys, values = (
        positions if positions.ndim == 2 else positions[layer]
        for positions in (prompt.key_positions, prompt.value_positions)
    )
    live = torch.ones(len(keys), dtype=torch.bool)
    if image < 0:
        return keys, values, live & (config.no_image != "base")
    num_rows = features.shape[1]
    rows = torch.zeros(num_rows, keys.shape[1], dtype=keys.dtype)
    for place, number in enumerate(row_images[image].tolist()):
        if config.insert_in != "none" and number >= 0:
            visual = prompt.projector(features[image, place])
            if config.num_images > 1:
                visual = visual + prompt.image_embedding[number]
            rows[place] = scale(config.visual_scale, prompt, "visual_scale") * visual
    if config.position_mode == "concat":
        return torch.cat([rows, keys]), torch.cat([rows, values]), torch.ones(num_rows + len(keys), dtype=torch.bool)
    padded = torch.cat([rows, rows.new_zeros(len(keys) - num_rows, rows.shape[1])])
    if config.padded_rows == "masked":
        live = torch.cat([row_images[image] >= 0, torch.zeros(len(keys) - num_rows, dtype=torch.bool)])
    in_keys, in_values = config.insert_in in ("both", "keys"), config.insert_in in ("both", "values")
    return keys + padded * in_keys, values + padded * in_values, live


@pytest.mark.parametrize("form", ["direct", "split", "factored", "reference"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_equals_the_written_out_equation(variant: str, form: str, memvp, batch) -> None:
    settings = {"form": form} | VARIANTS[variant]
    ids, features = batch()
    index = [1, -1, 0, 2]
    no_codes = settings["form"] == "factored" and variant.startswith("no_visual_rows")
    model = memvp(**settings | ({"form": "split"} if no_codes else {}))
    seen = {"visual_features": features, "image_index": torch.tensor(index)}
    found = model(ids, **seen, row_images=ROW_IMAGES).logits
    wanted = looped(model, ids, features, index, ROW_IMAGES)
    torch.testing.assert_close(found, wanted, **CLOSE)
    memory = model.encode(features, row_images=ROW_IMAGES)
    again = model(ids, memory=memory, image_index=torch.tensor(index)).logits
    torch.testing.assert_close(again, wanted, **CLOSE)


def test_factored_needs_codes_narrower_than_the_model(memvp, batch) -> None:
    ids, features = batch(images=4)
    with pytest.raises(ValueError, match='form "factored" needs rows given as codes'):
        memvp(projector_hidden_sizes=(24,), form="factored")(ids, visual_features=features)


def test_joined_images_equal_features_side_by_side(memvp, batch) -> None:
    """Unequal numbers of images and of rows: two images of 2 rows, one of 3, and one image that is none."""
    model = memvp(num_images=2)
    ids, features = batch(batch=3, images=3)
    pair = VisualMemory.join([model.encode(features[:1, :2]), model.encode(features[:1, 2:])])
    memory = VisualMemory.cat([pair, model.encode(features[1:2, :3])])
    assert memory.codes.shape == (2, 4, 7)
    assert memory.row_images.tolist() == [[0, 0, 1, 1], [0, 0, 0, -1]]
    index = torch.tensor([1, 0, -1])
    numbers = torch.tensor([[0, 0, 1, 1], [0, 0, 0, -1]])
    wanted = model(ids, visual_features=features[:2], row_images=numbers, image_index=index).logits
    torch.testing.assert_close(model(ids, memory=memory, image_index=index).logits, wanted, **CLOSE)


def test_joining_padded_memories_leaves_no_gap(memvp, batch) -> None:
    model = memvp(num_images=3)
    features = batch()[1]
    padded = VisualMemory.cat([model.encode(features[:1, :1]), model.encode(features[1:2, :2])])
    joined = VisualMemory.join([padded, model.encode(features[:2, 2:])])
    assert joined.row_images.tolist() == [[0, 1, 1, -1], [0, 0, 1, 1]]
    assert torch.equal(joined.codes[0, :1], model.encode(features[:1, :1]).codes[0])
    assert torch.equal(joined.codes[0, 1:3], model.encode(features[:1, 2:]).codes[0])


def test_more_images_than_8_bits_count_are_none_of_them_padding(memvp, batch) -> None:
    model = memvp(num_images=300, num_slots=300)
    one = model.encode(batch()[1][:1, :1])
    joined = VisualMemory.join([VisualMemory.join([one] * 200), one, VisualMemory.join([one] * 99)])
    assert joined.row_images.tolist() == [list(range(300))]
    assert VisualMemory.join([joined]).num_rows == 300


def test_numpys_numbers_choose_an_entry(memvp, batch) -> None:
    memory = memvp().encode(batch(images=3)[1])
    assert torch.equal(memory[np.int64(1)].codes, memory[1].codes)
    assert memory[np.int64(1)].codes.shape[0] == 1
    with pytest.raises(IndexError, match="holds 3 images, there is no entry 3"):
        memory[np.int32(3)]


def test_too_many_images_in_an_entry_are_refused(memvp, batch) -> None:
    model = memvp(num_images=2, num_slots=8)
    ids, features = batch(batch=1, images=1)
    three = VisualMemory.join([model.encode(features[:, :2])] * 3)
    with pytest.raises(ValueError, match="holds 3 images here, but there are 2 image embeddings: set num_images to"):
        model(ids, memory=three)


def test_packed_texts_equal_texts_by_themselves(memvp, batch) -> None:
    """Two texts in one row, each with its own image, attention and positions apart."""
    model = memvp(make_tiny(attn_implementation="eager"))
    ids, features = batch(batch=2)
    alone = [model(ids[row : row + 1], visual_features=features[row : row + 1]).logits for row in range(2)]
    block = torch.block_diag(*[torch.ones(6, 6).tril()] * 2).bool()
    mask = torch.zeros(1, 1, 12, 12, dtype=torch.float64).masked_fill(~block, torch.finfo(torch.float64).min)
    packed = model(
        ids.reshape(1, 12),
        mask,
        position_ids=torch.arange(6).repeat(2)[None],
        visual_features=features[:2],
        image_index=torch.tensor([[0] * 6 + [1] * 6]),
    ).logits
    torch.testing.assert_close(packed[0], torch.cat(alone, dim=1)[0], **CLOSE)


def test_dropout_falls_on_the_memory_alone_and_only_in_training(memvp, batch) -> None:
    ids, features = batch(images=4)
    dropped, kept = memvp(memory_dropout=0.5), memvp()
    seen = {"visual_features": features}
    assert torch.equal(dropped(ids, **seen).logits, kept(ids, **seen).logits)
    dropped.train()
    torch.manual_seed(0)
    means = torch.stack([dropped(ids, **seen).logits for _ in range(3)])
    assert not torch.equal(means[0], means[1])
    dropped.prompt.requires_grad_(False)
    (
        dropped.prompt.value_positions.zero_(),
        dropped.prompt.projector[2].weight.zero_(),
        dropped.prompt.projector[2].bias.zero_(),
    )
    with dropped.disable_adapter():
        base = dropped(ids).logits
    torch.testing.assert_close(dropped(ids, **seen).logits, base, rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", ["features", "memory", "nothing"])
def test_dropout_has_the_rate_of_the_settings_wherever_images_come_from(memvp, batch, given: str) -> None:
    ids, features = batch(images=4)
    model, rates = memvp(memory_dropout=0.3), []
    layer = model.language_model.model.layers[0]
    layer.register_forward_pre_hook(lambda *_: rates.append(model.injection.slot.reading.dropout))
    ways = {"features": {"visual_features": features}, "memory": {"memory": model.encode(features)}, "nothing": {}}
    for is_training in (True, False):
        model.train(is_training)(ids, **ways[given])
    assert rates == [0.3, 0.0]


@pytest.mark.parametrize("name", ["llama", "bart", "t5", "gemma3"])
def test_trained_norms_come_back_as_they_were(name: str, memvp, batch) -> None:
    ids, features = batch(images=4)
    base = make_tiny(name)
    inputs = {"input_ids": ids, "labels": ids}
    before = base.requires_grad_(False)(**inputs).logits
    norms = {f"language_model.{path}" for path, _ in base.named_parameters() if "norm" in path}
    model = memvp(base, train_layer_norms=True)
    assert model.trainable_state().keys() - norms == {key for key in model.trainable_state() if "prompt." in key}
    assert norms <= model.trainable_state().keys()
    model(**inputs, visual_features=features).loss.backward()
    with torch.no_grad():
        for key in norms:
            model.trainable_state()[key].sub_(model.trainable_state()[key].grad + 0.1)
    tuned = model(**inputs, visual_features=features).logits
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, before)
    assert torch.equal(model(**inputs, visual_features=features).logits, tuned)
    assert torch.equal(model.unload()(**inputs).logits, before)


@pytest.mark.parametrize(("target", "layers"), [("auto", 2), ("encoder", 2), ("decoder", 2), ("both", 4)])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_stacks_of_an_encoder_decoder(name: str, target: str, layers: int, memvp, oracle, batch) -> None:
    model = memvp(make_tiny(name), target_stack=target, share_position_embedding=False)
    paths = [site.last for site in model.injection.sites]
    assert len(paths) == layers
    assert any("decoder" in path for path in paths) == (target in ("decoder", "both"))
    ids, features = batch(batch=1, images=1)
    arguments = {"input_ids": ids, "decoder_input_ids": ids[:, :3]}
    found = model(**arguments, visual_features=features).logits
    torch.testing.assert_close(found, oracle(model, features[0])(**arguments).logits, **CLOSE)


def test_a_stack_that_is_not_there_is_refused(memvp, batch) -> None:
    with pytest.raises(ValueError, match="target_stack is 'encoder', but a llama model has only: decoder"):
        memvp(target_stack="encoder")
    ids, features = batch()
    index = torch.zeros(4, 6, dtype=torch.long)
    with pytest.raises(ValueError, match="image_index per token needs one stack"):
        memvp(make_tiny("bart"), target_stack="both")(
            ids, decoder_input_ids=ids, visual_features=features, image_index=index
        )


def test_unknown_model_shows_the_row_to_add() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    from memvp_core import get_memvp_model

    base = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=40))
    message = (
        r"model type 'bloom'; known are llama.*here: transformer\.h\.\*\.mlp\. Add a row such as BACKBONES\['bloom'\]"
    )
    with pytest.raises(ValueError, match=message):
        get_memvp_model(base, MemVPConfig(vision_hidden_size=6))


def test_sites_written_by_hand(batch) -> None:
    """Bloom is not in the table; its FFN adds the residual inside, so the retrieval goes to the last Linear."""
    from transformers import BloomConfig, BloomForCausalLM

    from memvp_core import get_memvp_model

    torch.manual_seed(0)
    base = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=2, n_head=2, vocab_size=40)).double().eval()
    paths = [f"transformer.h.{layer}.mlp" for layer in range(2)]
    sites = [
        FFNSite(layer, f"{path}.dense_h_to_4h", f"{path}.dense_4h_to_h", f"{path}.gelu_impl")
        for layer, path in enumerate(paths)
    ]
    ids, features = batch(images=4)
    before = base(ids).logits
    model = get_memvp_model(base, MemVPConfig(vision_hidden_size=6, num_slots=5, visual_scale=1.0), sites=sites).eval()
    nn.init.normal_(model.prompt.value_positions)
    assert not torch.allclose(model(ids, visual_features=features).logits, before)
    torch.testing.assert_close(model.unload()(ids).logits, before, rtol=0, atol=0)
