"""Retrieval maps against one dot product at a time."""

import pytest
import torch
from torch.nn import functional

from memvp_core.locate import retrieval_map


@pytest.mark.parametrize("keys", ["visual", "full"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per_layer"])
def test_map_holds_the_activations_of_the_images_rows(memvp, batch, keys: str, shared: bool) -> None:
    model = memvp(share_position_embedding=shared)
    ids, features = batch(images=3)
    index = torch.tensor([2, -1, 0, 2])
    memory = model.encode(features)
    found = retrieval_map(model, input_ids=ids, memory=memory, image_index=index, keys=keys)
    assert found.shape == (2, 4, 6, 4)

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
            # The map itself is in float32.
            torch.testing.assert_close(found[layer, b, token, row].double(), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_order_of_images_is_the_default(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = model.encode(features)
    plain = retrieval_map(model, input_ids=ids, memory=memory)
    assert torch.equal(plain, retrieval_map(model, input_ids=ids, memory=memory, image_index=torch.arange(4)))


def test_other_keys_are_refused(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    with pytest.raises(ValueError, match='keys must be "visual" or "full"'):
        retrieval_map(model, input_ids=ids, memory=model.encode(features), keys="all")
