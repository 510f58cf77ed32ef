"""What is written comes back: adapters with and without LoRA, and memories; damage is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, MemVPModel, VisionTower, VisualMemory, get_memvp_model
from memvp_core.backbones import FFNSite
from memvp_core.files import read_json
from memvp_core.vision import FeatureSpec
from memvp_core.visual_memory import fingerprint
from tests.core.conftest import make_model
from tests.core.tiny_models import make_tiny


def with_lora(model: Any, **settings: Any) -> Any:
    from peft import LoraConfig

    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "gate_proj"], init_lora_weights=False, **settings)
    model.add_lora(config)
    return model


@pytest.mark.parametrize("settings", [{}, {"learn_scales": True, "share_position_embedding": False}])
@pytest.mark.parametrize("lora", [False, True], ids=["memory", "memory_and_lora"])
def test_round_trip(memvp, llama, batch, tmp_path: Path, settings: dict[str, Any], lora: bool) -> None:
    model = with_lora(memvp(**settings)) if lora else memvp(**settings)
    ids, features = batch(images=4)
    model.save_pretrained(tmp_path / "adapter")
    again = MemVPModel.from_pretrained(llama(), tmp_path / "adapter").eval()
    assert again.memvp_config == model.memvp_config
    assert again.trainable_state().keys() == model.trainable_state().keys()
    wanted = model(ids, visual_features=features).logits
    torch.testing.assert_close(again(ids, visual_features=features).logits, wanted, rtol=0, atol=0)
    files = {path.relative_to(tmp_path / "adapter").as_posix() for path in (tmp_path / "adapter").rglob("*.*")}
    own = {"adapter_config.json", "adapter_model.safetensors"}
    assert files == own | ({f"lora/{name}" for name in own} if lora else set())


@pytest.mark.parametrize("wrapped", [False, True], ids=["injected", "peft_model"])
def test_plain_peft_loads_the_lora(memvp, llama, batch, tmp_path: Path, wrapped: bool) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    if wrapped:
        torch.manual_seed(3)
        config = LoraConfig(r=2, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
        model = memvp(get_peft_model(llama(), config))
    else:
        model = with_lora(memvp())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path / "lora")).eval()
    ids, _ = batch()
    wanted = model.unload().eval()(ids).logits
    torch.testing.assert_close(loaded(ids).logits, wanted, rtol=0, atol=0)
    assert not torch.allclose(wanted, llama()(ids).logits)


def test_given_tensors_replace_the_models_own(memvp, llama, tmp_path: Path) -> None:
    model = with_lora(memvp())
    state = {name: value.detach() + 1.0 for name, value in model.trainable_state().items()}
    model.save_pretrained(tmp_path, state=state)
    again = MemVPModel.from_pretrained(llama(), tmp_path)
    for name, value in again.trainable_state().items():
        assert torch.equal(value, state[name]), name


def test_same_adapter_gives_same_bytes(memvp, tmp_path: Path) -> None:
    model = with_lora(memvp())
    for folder in ("a", "b"):
        model.save_pretrained(tmp_path / folder)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_missing_folder_is_named(llama, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*nowhere/adapter_config\.json"):
        MemVPModel.from_pretrained(llama(), tmp_path / "nowhere")


def test_adapter_of_another_kind_is_refused(llama, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match="holds a 'LORA' adapter"):
        MemVPModel.from_pretrained(llama(), tmp_path)


def test_tensors_of_other_settings_are_refused(memvp, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"key_positions is \(5, 16\), expected \(6, 16\)"):
        memvp(num_slots=6).load_adapter(tmp_path)


def test_adapter_is_taken_over_by_a_model_with_the_same_settings(memvp, batch, tmp_path: Path) -> None:
    """As a training run does that goes on from a checkpoint."""
    saved, model = with_lora(memvp()), with_lora(memvp(seed=4))
    saved.save_pretrained(tmp_path)
    trainable = dict(model.trainable_state())
    model.load_adapter(tmp_path)
    ids, features = batch(images=4)
    assert torch.equal(model(ids, visual_features=features).logits, saved(ids, visual_features=features).logits)
    # The very tensors that an optimiser holds.
    assert all(value is trainable[name] for name, value in model.trainable_state().items())


def unknown(base: Any) -> Any:
    base.config.model_type = "my_own"
    return base


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "peft_model"])
def test_sites_written_by_hand_come_back(llama, batch, tmp_path: Path, wrapped: bool) -> None:
    from peft import LoraConfig, get_peft_model

    def sites(prefix: str, *layers: int) -> list[FFNSite]:
        paths = {layer: f"{prefix}model.layers.{layer}.mlp" for layer in layers}
        return [FFNSite(layer, path, path, f"{path}.act_fn") for layer, path in paths.items()]

    base, prefix = unknown(llama()), ""
    if wrapped:
        base = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        prefix = "base_model.model."
    model = get_memvp_model(base, MemVPConfig(vision_hidden_size=6), sites=sites(prefix, 1)).eval()
    torch.nn.init.normal_(model.prompt.value_positions)
    model.save_pretrained(tmp_path)
    ids, features = batch(images=4)
    wanted = model(ids, visual_features=features).logits
    again = MemVPModel.from_pretrained(unknown(llama()), tmp_path).eval()
    assert again.injection.sites == tuple(sites("", 1))
    assert torch.equal(again(ids, visual_features=features).logits, wanted)
    # Given ones are taken instead.
    other = MemVPModel.from_pretrained(unknown(llama()), tmp_path, sites=sites("", 0, 1)).eval()
    assert len(other.injection.sites) == 2
    assert not torch.allclose(other(ids, visual_features=features).logits, wanted)


def test_sites_of_the_table_are_not_written_down(memvp, tmp_path: Path) -> None:
    memvp(layers_to_transform=[1]).save_pretrained(tmp_path)
    assert "sites" not in json.loads((tmp_path / "adapter_config.json").read_text())


def make_tower() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 6, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=12)).double().eval()


def test_adapters_of_the_tower_come_back(llama, batch, tmp_path: Path) -> None:
    tower = VisionTower(make_tower(), FeatureSpec(layer=-1), adapter_size=2, adapter_scale=0.7)
    model = get_memvp_model(llama(), MemVPConfig(vision_hidden_size=6, visual_scale=1.0), tower).eval()
    for parameter in model.trainable_state().values():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    again = MemVPModel.from_pretrained(llama(), tmp_path, make_tower()).eval()
    assert again.vision_tower.settings() == tower.settings()
    assert again.trainable_state().keys() == model.trainable_state().keys()
    ids, pixels = batch()[0], torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(again(ids, pixel_values=pixels).logits, model(ids, pixel_values=pixels).logits)
    with pytest.raises(ValueError, match=r"has adapters in its vision tower: give the tower as from_pretrained\("):
        MemVPModel.from_pretrained(llama(), tmp_path)


def test_model_of_a_frozen_tower_needs_none_to_be_loaded(llama, tmp_path: Path) -> None:
    """Features or a memory made elsewhere are enough."""
    get_memvp_model(llama(), MemVPConfig(vision_hidden_size=6), make_tower()).save_pretrained(tmp_path)
    assert MemVPModel.from_pretrained(llama(), tmp_path).vision_tower is None
    assert MemVPModel.from_pretrained(llama(), tmp_path, make_tower()).vision_tower is not None


def test_truncated_tensors_are_named(memvp, llama, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is not a sound safetensors file"):
        MemVPModel.from_pretrained(llama(), tmp_path)


def test_failed_write_leaves_the_old_file(memvp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memvp_core import files

    path = tmp_path / "settings.json"
    files.write_json(path, {"step": 1})
    monkeypatch.setattr(files.os, "replace", _fail)
    with pytest.raises(OSError, match="disk is gone"):
        files.write_json(path, {"step": 2})
    assert files.read_json(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.json"]


def _fail(*_: Any) -> None:
    raise OSError("disk is gone")


def test_memory_round_trip(memvp, batch, tmp_path: Path) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = model.encode(features)
    memory.save(tmp_path / "images.safetensors")
    loaded = VisualMemory.load(tmp_path / "images.safetensors")
    assert torch.equal(loaded.codes, memory.codes)
    assert loaded.projector == memory.projector
    assert torch.equal(model(ids, memory=loaded).logits, model(ids, memory=memory).logits)
    # Codes, not rows: 7 wide is the projector's hidden layer, 16 the model.
    assert memory.nbytes == 4 * 4 * 7 * 8
    assert (tmp_path / "images.safetensors").stat().st_size < memory.nbytes + 300


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_memory_survives_saving_and_casting_the_model(memvp, llama, batch, tmp_path: Path, dtype: torch.dtype) -> None:
    """A memory made by a model in float32 is one that its cast accepts, and the other way round."""
    model = memvp(llama().float())
    ids, features = batch(images=4)
    memory = model.encode(features)
    model.save_pretrained(tmp_path)
    again = MemVPModel.from_pretrained(llama().to(dtype), tmp_path).eval().to(dtype)
    found, wanted = again(ids, memory=memory).logits, model(ids, memory=memory).logits
    # Some ten sums rounded by 2^-9 each; another image moves the logits by a third.
    assert (found.float() - wanted).norm() < 2**-4 * wanted.norm()
    short = again.encode(features)
    assert again.float()(ids, memory=short).logits.isfinite().all()
    assert len(VisualMemory.cat([memory, short.to(torch.float32)])) == 8
    with torch.no_grad():
        again.prompt.projector[0].weight.mul_(1.01)
    with pytest.raises(ValueError, match="encode the images again"):
        again(ids, memory=memory)


def test_memory_of_a_file_from_before_is_read_as_before(memvp, llama, batch) -> None:
    """Its projector has one fingerprint, that of bfloat16."""
    model = memvp(llama().float())
    ids, features = batch(images=4)
    memory = model.encode(features)
    old = replace(memory, projector=memory.projector[:16])
    assert torch.equal(model(ids, memory=old).logits, model(ids, memory=memory).logits)
    assert len(VisualMemory.cat([old, memory])) == 8
    assert model.bfloat16()(ids, memory=old).logits.isfinite().all()


def test_joins_are_joined_with_the_numbers_of_one_join(memvp, batch) -> None:
    _, features = batch(images=4)
    a, b, c, d = (memvp(num_images=4).encode(features)[number] for number in range(4))
    flat = VisualMemory.join([a, b, c, d])
    assert flat.row_images.tolist() == [[number for number in range(4) for _ in range(4)]]
    join = VisualMemory.join
    for nested in (join([join([a, b]), join([c, d])]), join([a, join([b, c]), d]), join([join([join([a, b]), c]), d])):
        assert torch.equal(nested.row_images, flat.row_images)
        assert torch.equal(nested.codes, flat.codes)


def test_parts_of_a_memory(memvp, batch) -> None:
    memory = memvp().encode(batch(images=4)[1])
    assert torch.equal(memory[2].codes, memory.codes[2:3])
    assert torch.equal(memory[-1].codes, memory.codes[3:])
    assert torch.equal(memory[1:3].codes, memory.codes[1:3])
    assert torch.equal(VisualMemory.cat([memory[1:3], memory[0]]).codes, memory.codes[[1, 2, 0]])
    joined = VisualMemory.join([memory[0:2], memory[2:4]])
    assert torch.equal(joined.codes[1], torch.cat([memory.codes[1], memory.codes[3]]))
    with pytest.raises(IndexError, match="there is no entry 4"):
        memory[4]


def test_memories_that_do_not_belong_together_are_refused(memvp, batch) -> None:
    memory = memvp().encode(batch(images=4)[1])
    stranger = memvp(seed=5).encode(batch(images=4)[1])
    with pytest.raises(ValueError, match="different projectors"):
        VisualMemory.cat([memory, stranger])
    with pytest.raises(ValueError, match=r"number of images: \[1, 4\]"):
        VisualMemory.join([memory, memory[0]])
    with pytest.raises(ValueError, match="at least one memory"):
        VisualMemory.cat([])


def test_adapter_is_no_memory(memvp, tmp_path: Path) -> None:
    memvp().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not a visual memory"):
        VisualMemory.load(tmp_path / "adapter_model.safetensors")


def test_settings_survive_json() -> None:
    config = MemVPConfig(vision_hidden_size=8, layers_to_transform=[0, 3], projector_hidden_sizes=[4, 4])
    assert MemVPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_fingerprint_names_weights_not_their_type_or_layout() -> None:
    """Evenly spaced samples of a large bfloat16 tensor are a view with gaps."""
    weight = torch.randn(100, 400).bfloat16()
    name = fingerprint({"weight": weight})
    assert name == fingerprint({"weight": weight.float()}) == fingerprint({"weight": weight.T.contiguous().T})
    assert name != fingerprint({"weight": weight + 0.1})
    assert name != fingerprint({"other": weight})


def test_a_language_model_takes_the_right_adapter_after_a_broken_one(memvp, llama, tmp_path: Path) -> None:
    """As in a notebook whose first try named the wrong folder."""
    for name, settings in (("right", {}), ("broken", {})):
        with_lora(memvp(**settings)).save_pretrained(tmp_path / name)
    (tmp_path / "broken/lora/adapter_model.safetensors").write_bytes(b"no tensors")
    base = llama()
    before = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        MemVPModel.from_pretrained(base, tmp_path / "broken")
    assert {name: parameter.requires_grad for name, parameter in base.named_parameters()} == before
    MemVPModel.from_pretrained(base, tmp_path / "right")


def test_the_whole_models_type_is_noted_not_that_of_its_text(tmp_path: Path) -> None:
    make_model(make_tiny("llava")).save_pretrained(tmp_path)
    settings = read_json(tmp_path / "adapter_config.json")
    assert (settings["base_model_type"], settings["base_model"]["model_type"]) == ("llava", "llama")


def test_a_refused_save_leaves_nothing_behind(tmp_path: Path) -> None:
    from peft import LoraConfig

    with torch.device("meta"):
        model = make_model(make_tiny())
        model.add_lora(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="has no values here"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
