"""Generation equals a loop that computes everything anew for each token, however the batch is padded or shared."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.tiny_models import make_tiny

NEW_TOKENS = 5
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
LENGTHS = [6, 3, 5, 1]
INDEX = torch.tensor([1, -1, 0, 1])


def greedy_loop(model: Any, ids: Tensor, features: Tensor, *, image: int) -> list[int]:
    """One sequence without padding and without a cache."""
    for _ in range(NEW_TOKENS):
        logits = model(ids, visual_features=features, image_index=torch.tensor([image]), use_cache=False).logits
        logits[0, -1, 2] = -torch.inf  # the end token, which min_new_tokens forbids
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[0, -NEW_TOKENS:].tolist()


def left_padded(ids: Tensor, *, lengths: list[int], extra: int = 0) -> dict[str, Tensor]:
    """Each row keeps its last tokens; `extra` columns of padding for all."""
    width = max(lengths) + extra
    mask = torch.stack([(torch.arange(width) >= width - length).long() for length in lengths])
    padded = torch.cat([ids.new_zeros(len(ids), width - ids.shape[1]), ids], dim=1)
    return {"input_ids": padded * mask, "attention_mask": mask}


@pytest.mark.parametrize("settings", [{"form": "direct"}, {"form": "split"}, {"share_position_embedding": False}])
@pytest.mark.parametrize("extra", [0, 3])
def test_greedy_equals_the_loop(memvp, batch, settings: dict[str, Any], extra: int) -> None:
    model = memvp(**settings)
    ids, features = batch()
    inputs = left_padded(ids, lengths=LENGTHS, extra=extra)
    out = model.generate(**inputs, memory=model.encode(features), image_index=INDEX, **GREEDY)
    for row, length in enumerate(LENGTHS):
        alone = greedy_loop(model, ids[row : row + 1, -length:], features, image=int(INDEX[row]))
        assert out[row, -NEW_TOKENS:].tolist() == alone


def test_beams_equal_those_of_the_concatenated_model(memvp, oracle, batch) -> None:
    """The base model with one image in its weights runs the beam search of transformers on each row by itself."""
    model = memvp()
    ids, features = batch()
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 3}
    settings |= {"num_return_sequences": 2}
    inputs = left_padded(ids, lengths=LENGTHS)
    out = model.generate(**inputs, memory=model.encode(features), image_index=INDEX, **settings)
    for row, length in enumerate(LENGTHS):
        image = int(INDEX[row])
        alone = oracle(model, None if image < 0 else features[image])
        wanted = alone.generate(ids[row : row + 1, -length:], **settings)
        assert out[2 * row : 2 * row + 2, -4:].tolist() == wanted[:, -4:].tolist()


def test_padding_side_does_not_matter(memvp, batch) -> None:
    model = memvp()
    ids, features = batch()
    left = left_padded(ids, lengths=LENGTHS)
    mask = left["attention_mask"].flip(1)
    right_ids = torch.stack([row.roll(-int((row == 0).sum())) for row in left["input_ids"]])
    settings = {"visual_features": features, "image_index": INDEX}
    positions = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    on_left = model(**left, position_ids=positions, **settings).logits
    on_right = model(right_ids, mask, **settings).logits
    for row, length in enumerate(LENGTHS):
        # Within the float32 of the norms.
        torch.testing.assert_close(on_left[row, -length:], on_right[row, :length], rtol=1e-5, atol=1e-5)


def test_batch_of_one_equals_batch_of_eight(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(batch=8, images=3)
    index = torch.tensor([0, 1, 2, -1, 2, 2, 0, -1])
    memory = model.encode(features)
    together = model.generate(ids, memory=memory, image_index=index, **GREEDY)
    for row in range(8):
        alone = model.generate(ids[row : row + 1], memory=memory, image_index=index[row : row + 1], **GREEDY)
        assert alone[0].tolist() == together[row].tolist()


def test_shared_image_equals_copies_with_beams(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(batch=6, images=2)
    index = torch.tensor([1, 0, 1, 1, 0, 1])
    settings = GREEDY | {"num_beams": 2}
    shared = model.generate(ids, visual_features=features, image_index=index, **settings)
    assert torch.equal(shared, model.generate(ids, visual_features=features[index], **settings))


def test_new_tokens_read_the_image_of_the_last_one(memvp, batch) -> None:
    """A system prompt without image, then a question with one; cached decoding equals computing all of it anew."""
    model = memvp()
    ids, features = batch(batch=2, images=2)
    index = torch.tensor([[-1, -1, 0, 0, 0, 0], [-1, -1, -1, 1, 1, 1]])
    out = model.generate(ids, visual_features=features, image_index=index, num_beams=2, **GREEDY)
    greedy = model.generate(ids, visual_features=features, image_index=index, **GREEDY)
    assert out.shape == greedy.shape
    grown, grown_index = ids, index
    for _ in range(NEW_TOKENS):
        logits = model(grown, visual_features=features, image_index=grown_index).logits[:, -1]
        logits[:, 2] = -torch.inf
        grown = torch.cat([grown, logits.argmax(-1, keepdim=True)], dim=1)
        grown_index = torch.cat([grown_index, grown_index[:, -1:]], dim=1)
    assert torch.equal(greedy, grown)


def test_image_changes_the_answer(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(batch=1, images=4)
    memory = model.encode(features)
    answers = {tuple(model.generate(ids, memory=memory[image], **GREEDY)[0].tolist()) for image in range(4)}
    assert len(answers) > 1


INDICES_OF_ONE = (torch.tensor([1]), torch.ones(1, 6, dtype=torch.long))
PER_TOKEN = torch.tensor([[-1, -1, 0, 0, 1, 0], [-1, -1, -1, 1, 1, 1]])


@pytest.mark.parametrize("beams", [1, 2])
def test_index_per_token_without_a_cache_equals_that_with_one(memvp, batch, beams: int) -> None:
    model = memvp()
    ids, features = batch(batch=2, images=2)
    settings = GREEDY | {"num_beams": beams, "visual_features": features, "image_index": PER_TOKEN}
    assert torch.equal(model.generate(ids, use_cache=False, **settings), model.generate(ids, **settings))


@pytest.mark.parametrize(
    "settings", [{"prefill_chunk_size": 3}, {"prompt_lookup_num_tokens": 2}, {"assistant_model": "itself"}], ids=str
)
@pytest.mark.parametrize("place", ["argument", "given_config", "own_config"])
def test_index_per_token_is_refused_where_tokens_come_in_other_pieces(
    memvp, batch, settings: dict[str, Any], place: str
) -> None:
    model = memvp()
    ids, features = batch(batch=1, images=2)
    settings = {name: model.language_model if value == "itself" else value for name, value in settings.items()}
    name, given = next(iter(settings)), settings
    if place != "argument" and name != "assistant_model":
        config = copy.deepcopy(model.generation_config)
        config.update(**settings)
        given = {"generation_config": config} if place == "given_config" else {}
        model.generation_config = config if place == "own_config" else model.generation_config
    with pytest.raises(ValueError, match=rf"generating with {name} .* give one image per sequence"):
        model.generate(ids, visual_features=features, image_index=PER_TOKEN[:1], **given, **GREEDY)
    # The same index in fewer words may come in any pieces.
    sequence, constant = ({"visual_features": features, "image_index": one} for one in INDICES_OF_ONE)
    assert torch.equal(
        model.generate(ids, **sequence, **given, **GREEDY), model.generate(ids, **constant, **given, **GREEDY)
    )


@pytest.mark.parametrize("disabled", [False, True], ids=["memory", "disabled"])
@pytest.mark.parametrize("name", ["llama", "bart"])
def test_text_under_its_other_names(memvp, batch, name: str, disabled: bool) -> None:
    model = memvp(make_tiny(name))
    ids, features = batch()
    seen = {"visual_features": features, "image_index": INDEX, "attention_mask": torch.ones_like(ids)}
    embeds = model.language_model.get_input_embeddings()(ids)
    with model.disable_adapter() if disabled else nullcontext():
        wanted = model.generate(ids, **seen, **GREEDY)
        assert torch.equal(model.generate(inputs=ids, **seen, **GREEDY), wanted)
        # A decoder gives the new tokens alone where it was not given any.
        found = model.generate(inputs_embeds=embeds, **seen, **GREEDY)
        assert torch.equal(found[:, -NEW_TOKENS:], wanted[:, -NEW_TOKENS:])


def test_a_call_without_text_is_refused(memvp, batch) -> None:
    model = memvp()
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="expected a text, as input_ids or inputs_embeds"):
            call(visual_features=batch()[1])
