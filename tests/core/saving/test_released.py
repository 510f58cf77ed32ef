"""The importer of the authors' checkpoints, on files of their layout at tiny width."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from memvp_core import VisionTower, get_memvp_model
from memvp_core.saving.released import read_released
from memvp_core.vision import FEATURE_PRESETS
from tests.core.tiny_models import HIDDEN

WIDTH, SLOTS, CODES, ROWS, BLOCKS = 6, 5, 3, 2, 4


def released_tensors(*, prefix: str = "") -> dict[str, Tensor]:
    """The 55 tensors of LLaMA, here with 4 blocks instead of 24."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "adapter_emb1": (1, SLOTS, HIDDEN),
        "adapter_emb2": (1, SLOTS, HIDDEN),
        "adapter_proj.fc1.weight": (CODES, WIDTH),
        "adapter_proj.fc1.bias": (CODES,),
        "adapter_proj.fc2.weight": (HIDDEN, CODES),
        "adapter_proj.fc2.bias": (HIDDEN,),
        "adapter_modality_embedding.weight": (2, HIDDEN),
    }
    for block in range(BLOCKS):
        path = f"backbone.visual.transformer.resblocks.{block}.adapter_mlp"
        shapes |= {f"{path}.fc1.weight": (ROWS, WIDTH), f"{path}.fc2.weight": (WIDTH, ROWS)}
    return {prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("whole", [False, True], ids=["state_dict", "training_checkpoint"])
def test_every_tensor_finds_its_place(tmp_path: Path, prefix: str, whole: bool) -> None:
    tensors = released_tensors(prefix=prefix)
    arguments = argparse.Namespace(adapter_scale=0.1, lr=None, blr=9e-3, data_path="data", betas=(0.9, 0.95))
    content = {"model": tensors, "epoch": 19, "args": arguments} if whole else tensors
    released = read_released(write(tmp_path / "released.pth", content))
    plain = released_tensors()
    wanted = {
        "projector.0.weight": plain["adapter_proj.fc1.weight"],
        "projector.0.bias": plain["adapter_proj.fc1.bias"],
        "projector.2.weight": plain["adapter_proj.fc2.weight"],
        "projector.2.bias": plain["adapter_proj.fc2.bias"],
        "key_positions": plain["adapter_emb1"][0],
        "value_positions": plain["adapter_emb2"][0],
    }
    assert released.prompt.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in released.prompt.items())
    blocks = "backbone.visual.transformer.resblocks"
    assert released.tower_keys.shape == released.tower_values.shape == (BLOCKS - 1, ROWS, WIDTH)
    for block in range(BLOCKS - 1):
        assert torch.equal(released.tower_keys[block], plain[f"{blocks}.{block}.adapter_mlp.fc1.weight"])
        assert torch.equal(released.tower_values[block].T, plain[f"{blocks}.{block}.adapter_mlp.fc2.weight"])


def test_settings_are_those_of_the_released_code(tmp_path: Path) -> None:
    released = read_released(write(tmp_path / "released.pth", released_tensors()), key_positions="adapter_emb1")
    config = released.config
    assert (config.visual_scale, config.retrieval_scale, config.memory_dropout) == (0.01, 0.1, 0.1)
    assert (config.vision_hidden_size, config.num_slots, config.projector_hidden_sizes) == (WIDTH, SLOTS, (CODES,))
    assert (config.projector_activation, config.projector_bias) == ("silu", True)
    assert (config.share_position_embedding, config.position_mode, config.padded_rows) == (True, "add", "live")
    assert config.num_parameters(hidden_size=4096, num_layers=32) > 0


@pytest.mark.parametrize("keys", ["adapter_emb1", "adapter_emb2"])
def test_loaded_memory_computes_the_written_equation(llama, tmp_path: Path, keys: str) -> None:
    """y = FFN(u) + 0.1 SiLU(u K^T) V with K = 0.01 f(Z) + P^k, zero-padded, and V = 0.01 f(Z) + P^v."""
    tensors = {name: value.double() for name, value in released_tensors().items()}
    released = read_released(write(tmp_path / "released.pth", tensors), key_positions=keys)
    model = get_memvp_model(llama(), released.config).eval()
    model.prompt.load_state_dict(released.prompt)
    features = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    u = torch.randn(1, 3, HIDDEN, dtype=torch.float64)
    reading = model._reading(
        torch.zeros(1, 3, dtype=torch.long),
        visual_features=features,
        row_images=None,
        memory=None,
        image_index=None,
        is_generating=False,
    )
    ffn = model.language_model.model.layers[1].mlp
    plain = ffn(u)
    with model.injection.slot.bound(reading):
        found = ffn(u)
    codes = functional.silu(features[0] @ tensors["adapter_proj.fc1.weight"].T + tensors["adapter_proj.fc1.bias"])
    projected = codes @ tensors["adapter_proj.fc2.weight"].T + tensors["adapter_proj.fc2.bias"]
    rows = torch.zeros(SLOTS, HIDDEN, dtype=torch.float64)
    rows[:4] = 0.01 * projected
    others = {"adapter_emb1": "adapter_emb2", "adapter_emb2": "adapter_emb1"}
    key_rows, value_rows = rows + tensors[keys][0], rows + tensors[others[keys]][0]
    wanted = plain + 0.1 * functional.silu(u @ key_rows.T) @ value_rows
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_tower_computes_the_written_adapters(tmp_path: Path) -> None:
    """x + MLP(v) + 0.1 Up(GELU(Down v)) in every block but the last, then the norm meant for that one."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "image_size": 8}
    torch.manual_seed(0)
    clip = CLIPVisionModel(CLIPVisionConfig(**sizes, intermediate_size=12, patch_size=4)).double().eval()
    tensors = {name: value.double() for name, value in released_tensors().items()}
    released = read_released(write(tmp_path / "released.pth", tensors), key_positions="adapter_emb1")
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def add(number: int) -> Any:
        path = f"backbone.visual.transformer.resblocks.{number}.adapter_mlp"
        down, up = tensors[f"{path}.fc1.weight"], tensors[f"{path}.fc2.weight"]
        return lambda _, args, out: out + 0.1 * functional.gelu(args[0] @ down.T) @ up.T

    mlps = [module for path, module in clip.named_modules() if path.endswith(".mlp")]
    handles = [mlp.register_forward_hook(add(number)) for number, mlp in enumerate(mlps)]
    states = clip(pixel_values=pixels, output_hidden_states=True).hidden_states
    norm = next(module for path, module in clip.named_modules() if path.endswith("post_layernorm"))
    wanted = norm(states[BLOCKS - 1][:, 1:])
    for handle in handles:
        handle.remove()
    tower = VisionTower(clip, FEATURE_PRESETS["memvp_scienceqa"], adapter_size=ROWS).eval()
    tower.adapters.load_state_dict({"keys": released.tower_keys, "values": released.tower_values})
    torch.testing.assert_close(tower(pixels), wanted, rtol=1e-9, atol=1e-9)


def test_the_keys_embedding_is_the_first_or_the_one_that_is_named(tmp_path: Path) -> None:
    tensors = released_tensors()
    path = write(tmp_path / "released.pth", tensors)
    assert torch.equal(read_released(path).prompt["key_positions"], tensors["adapter_emb1"][0])
    other = read_released(path, key_positions="adapter_emb2").prompt
    assert torch.equal(other["key_positions"], tensors["adapter_emb2"][0])
    assert torch.equal(other["value_positions"], tensors["adapter_emb1"][0])
    with pytest.raises(ValueError, match="must be adapter_emb1 or adapter_emb2, got 'emb1'"):
        read_released(path, key_positions="emb1")  # type: ignore[arg-type]


class Evil:
    """Pickle would call it."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"adapter_emb1": torch.zeros(1)}}, "not a released ScienceQA checkpoint: it lacks adapter_emb2"),
        ([torch.zeros(1)], "holds list, expected a state dict"),
        ({"model": Evil()}, "not a file of weights that torch can read safely"),
        (released_tensors() | {"adapter_new.weight": torch.zeros(1)}, "do not have: adapter_new.weight"),
        (
            {name: value for name, value in released_tensors().items() if "resblocks.1." not in name},
            "expected two adapter weights in each block",
        ),
    ],
    ids=["other_checkpoint", "list", "code", "unknown_adapter", "missing_block"],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_released(write(tmp_path / "file.pth", content), key_positions="adapter_emb1")
    assert capsys.readouterr().out == ""


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.pth"):
        read_released(tmp_path / "nowhere.pth", key_positions="adapter_emb1")
    path = write(tmp_path / "cut.pth", released_tensors())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.pth is not a file of weights"):
        read_released(path, key_positions="adapter_emb1")
