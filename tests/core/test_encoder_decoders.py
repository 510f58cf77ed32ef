"""Encoder-decoders: whose tokens an index counts, and encoder outputs that were made before."""

from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from memvp_core import get_memvp_model
from memvp_core.backbones import find_sites
from memvp_core.locate import retrieval_map
from tests.core.tiny_models import make_tiny

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
NAMES = pytest.mark.parametrize("name", ["bart", "t5"])
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@NAMES
@pytest.mark.parametrize("given", ["decoder_input_ids", "decoder_inputs_embeds", "labels"])
def test_index_per_token_counts_the_decoders_tokens(name: str, given: str, memvp, batch) -> None:
    """With the last layer's memory alone, a token's answer knows no other token's image."""
    model = memvp(make_tiny(name), target_stack="decoder", layers_to_transform=[1])
    ids, features = batch()
    target = ids[:, :4].contiguous()
    embeds = model.language_model.get_input_embeddings()
    text = {"input_ids": ids, given: embeds(target) if given == "decoder_inputs_embeds" else target}
    alone = [
        model(**text, visual_features=features, image_index=torch.full((4,), image)).logits for image in (-1, 0, 1, 2)
    ]
    index = torch.tensor([[-1, 0, 1, 2], [2, 2, -1, 0], [1, 1, 1, 1], [0, 2, 0, 2]])
    found = model(**text, visual_features=features, image_index=index).logits
    wanted = [[alone[int(index[row, token]) + 1][row, token] for token in range(4)] for row in range(4)]
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in wanted]), **CLOSE)
    with pytest.raises(ValueError, match=r"one per sequence \(4,\) or per token \(4, 4\)"):
        model(**text, visual_features=features, image_index=torch.zeros_like(ids))


@NAMES
def test_generating_in_the_decoder_refuses_an_index_per_token(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name), target_stack="decoder")
    ids, features = batch(batch=1)
    index = torch.tensor([[0, 0, 0, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"generating in the decoder, .* give one image per sequence"):
        model.generate(ids, visual_features=features, image_index=index, **GREEDY)


@NAMES
@pytest.mark.parametrize("stack", ["encoder", "decoder", "both"])
def test_outputs_of_the_encoder_stand_for_its_text(name: str, stack: Any, memvp, batch) -> None:
    model = memvp(make_tiny(name), target_stack=stack)
    ids, features = batch(images=4)
    target = {"decoder_input_ids": ids[:, :4]}
    out = model(ids, **target, visual_features=features)
    before = {"encoder_outputs": BaseModelOutput(out.encoder_last_hidden_state)}
    images = {} if stack == "encoder" else {"visual_features": features}
    torch.testing.assert_close(model(**before, **target, **images).logits, out.logits, rtol=0, atol=0)
    as_tuple = {"encoder_outputs": (out.encoder_last_hidden_state,)}
    torch.testing.assert_close(model(**as_tuple, **target, **images).logits, out.logits, rtol=0, atol=0)
    wanted = model.generate(ids, visual_features=features, **GREEDY)
    assert torch.equal(model.generate(**before, **images, **GREEDY), wanted)


@NAMES
def test_images_for_an_encoder_that_does_not_run_are_refused(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name))
    ids, features = batch(images=4)
    states = model.language_model.get_encoder()(ids)
    for call in (model, model.generate):
        for images in ({"visual_features": features}, {"memory": model.encode(features)}):
            with pytest.raises(ValueError, match="leave the images out, or give input_ids"):
                call(encoder_outputs=states, **images)
    target = {"decoder_input_ids": ids[:, :4]}
    assert model(encoder_outputs=states, **target, visual_features=features[:0]).logits.shape[:2] == (4, 4)
    sites = find_sites(make_tiny(name), target="decoder")
    by_hand = get_memvp_model(make_tiny(name), model.memvp_config, sites=sites)
    assert by_hand(encoder_outputs=states, **target, visual_features=features).logits.shape[:2] == (4, 4)


@NAMES
def test_maps_of_the_decoder_take_an_index_of_its_tokens(name: str, memvp, batch) -> None:
    model = memvp(make_tiny(name), target_stack="decoder", layers_to_transform=[0])
    ids, features = batch(batch=1)
    seen = {"input_ids": ids, "memory": model.encode(features), "decoder_input_ids": ids[:, :4]}
    found = retrieval_map(model, **seen, image_index=torch.tensor([[1, -1, 0, 1]]))
    assert found.shape[:3] == (1, 1, 4)
    # Before the only layer with a memory no token knows of images.
    for token, image in ((0, 1), (2, 0), (3, 1)):
        alone = retrieval_map(model, **seen, image_index=torch.tensor([image]))
        torch.testing.assert_close(found[:, :, token], alone[:, :, token], **CLOSE)
    assert not found[:, :, 1].any()
