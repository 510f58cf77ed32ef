"""Language models on several devices, or with their weights somewhere else between calls."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.utils import send_to_device

from memvp_core import MemVPModel
from memvp_core.memory.entries import Entries
from tests.core.test_model import lora_config
from tests.core.tiny_models import make_tiny

GREEDY = {"max_new_tokens": 3, "do_sample": False}


def on_cpu(folder: Path) -> Any:
    return cpu_offload(make_tiny(dtype=torch.float32), execution_device=torch.device("cpu"))


def on_disk(folder: Path) -> Any:
    """One layer, the embedding and the head lie on the disk."""
    places = {"model.layers.0": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= dict.fromkeys(("model.embed_tokens", "model.layers.1", "lm_head"), "disk")
    base = make_tiny(dtype=torch.float32)
    return dispatch_model(base, device_map=places, main_device="cpu", offload_dir=str(folder / "weights"))


@pytest.mark.parametrize("offloaded", [on_cpu, on_disk], ids=["cpu_offload", "disk"])
def test_offloaded_weights_answer_and_train_as_those_in_place(memvp, batch, tmp_path: Path, offloaded: Any) -> None:
    ids, features = batch(images=4)
    seen = {"visual_features": features.float()}
    model, wanted = memvp(offloaded(tmp_path)), memvp(make_tiny(dtype=torch.float32))
    assert model.language_model.get_input_embeddings().weight.is_meta
    assert model.prompt.device == torch.device("cpu")
    assert torch.equal(model(ids, **seen).logits, wanted(ids, **seen).logits)
    assert torch.equal(model.generate(ids, **seen, **GREEDY), wanted.generate(ids, **seen, **GREEDY))
    for one in (model, wanted):
        one(ids, labels=ids, **seen).loss.backward()
    for name, parameter in wanted.trainable_state().items():
        assert torch.equal(model.trainable_state()[name].grad, parameter.grad), name
    model.save_pretrained(tmp_path / "adapter")
    again = MemVPModel.from_pretrained(offloaded(tmp_path), tmp_path / "adapter").eval()
    assert torch.equal(again(ids, **seen).logits, wanted(ids, **seen).logits)
    with model.disable_adapter():
        torch.testing.assert_close(model(ids).logits, make_tiny(dtype=torch.float32)(ids).logits)


def test_what_trains_beside_offloaded_weights_is_the_memory_alone(memvp, tmp_path: Path) -> None:
    model = memvp(on_cpu(tmp_path))
    with pytest.raises(ValueError, match=r"a new LoRA needs .* offloaded those of 'model\.embed_tokens'"):
        model.add_lora(lora_config())
    base = on_cpu(tmp_path)
    with pytest.raises(ValueError, match=r"train_layer_norms needs .* load the language model without offloading"):
        memvp(base, train_layer_norms=True)
    memvp(base)


def spread(base: Any) -> Any:
    """All but the first layer on a second device, to which states move where they come to it, as device_map does it."""

    def move(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return send_to_device(args, "meta"), send_to_device(kwargs, "meta")

    for module in (*base.model.layers[1:], base.model.norm, base.lm_head):
        module.to("meta").register_forward_pre_hook(move, with_kwargs=True)
    return base


@pytest.mark.parametrize("form", ["direct", "split", "factored"])
@pytest.mark.parametrize("settings", [{}, {"learn_scales": True, "share_position_embedding": False}], ids=str)
def test_layers_on_a_second_device_read_there(
    memvp, batch, monkeypatch: pytest.MonkeyPatch, form: str, settings: dict[str, Any]
) -> None:
    """Its numbers are unknown here: torch refuses to compute with tensors of two devices, be it a meta device."""
    moves: list[torch.device] = []
    move = Entries.to
    monkeypatch.setattr(Entries, "to", lambda self, device: moves.append(device) or move(self, device))
    base = spread(make_tiny(num_hidden_layers=4))
    model = memvp(base, form=form, no_image="base", padded_rows="masked", **settings)
    ids, features = batch()
    for index in (torch.tensor([1, -1, 0, 1]), torch.tensor([[0, 0, 1, 1, 2, -1]] * 4)):
        moves.clear()
        out = model(ids, visual_features=features, image_index=index).logits
        assert out.device.type == "meta"
        # Once for three layers.
        assert moves == [torch.device("meta")]
