"""Trainable parameters at the sizes of the paper, counted on models built on the meta device.

The authors' released code prints 3,879,040 for LLaMA-7B and 5,487,744 for 13B. Besides what is counted here it has a
modality embedding of 2 x d that nothing reads (8,192 and 10,240) and an adapter in the tower's last block, whose output
nothing reads (2 x 12 x 1024 = 24,576): 3,879,040 - 8,192 - 24,576 = 3,846,272 and 5,487,744 - 10,240 - 24,576 =
5,452,928.
"""

from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, VisionTower, get_memvp_model
from memvp_core.vision import FEATURE_PRESETS

VQA = {"vision_hidden_size": 2048, "projector_hidden_sizes": (), "projector_bias": False, "num_slots": 240}
VQA |= {"share_position_embedding": False}


def build(kind: str, **settings: Any) -> Any:
    import transformers

    model: Any = getattr(transformers, kind)
    with torch.device("meta"):
        return model(model.config_class(**settings))


def bart() -> Any:
    sizes = {"encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "d_model": 768, "encoder_layers": 6}
    return build("BartForConditionalGeneration", **sizes, decoder_layers=6, vocab_size=50265)


def t5() -> Any:
    return build("T5ForConditionalGeneration", d_model=768, d_ff=3072, d_kv=64, num_layers=12, num_heads=12)


def llama(*, hidden_size: int, num_layers: int) -> Any:
    sizes = {"hidden_size": hidden_size, "intermediate_size": hidden_size * 43 // 16, "num_hidden_layers": num_layers}
    return build("LlamaForCausalLM", **sizes, num_attention_heads=hidden_size // 128, vocab_size=32000)


def clip() -> Any:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return build("CLIPVisionModel", **sizes, image_size=224, patch_size=14)


@pytest.mark.parametrize(
    ("base", "settings", "count"),
    [
        (bart, VQA, 3_784_704),
        (t5, VQA, 5_996_544),
        (bart, VQA | {"train_layer_norms": True}, 3_833_856),
        (t5, VQA | {"train_layer_norms": True}, 6_044_160),
        (bart, VQA | {"vision_hidden_size": 512}, 2_605_056),
    ],
    ids=["bart", "t5", "bart_norms", "t5_norms", "bart_video"],
)
def test_encoder_decoders(base: Any, settings: dict[str, Any], count: int) -> None:
    model = get_memvp_model(base(), MemVPConfig(**settings))
    assert model.num_trainable_parameters() == count
    norms = sum(p.numel() for name, p in model.trainable_state().items() if not name.startswith("prompt."))
    assert model.memvp_config.num_parameters(hidden_size=768, num_layers=len(model.injection.sites)) == count - norms


@pytest.mark.parametrize(
    ("hidden_size", "num_layers", "num_slots", "count"), [(4096, 32, 320, 3_846_272), (5120, 40, 400, 5_452_928)]
)
def test_llama_with_tower_adapters(hidden_size: int, num_layers: int, num_slots: int, count: int) -> None:
    tower = VisionTower(clip(), FEATURE_PRESETS["memvp_scienceqa"], adapter_size=12)
    config = MemVPConfig(vision_hidden_size=1024, num_slots=num_slots)
    model = get_memvp_model(llama(hidden_size=hidden_size, num_layers=num_layers), config, tower)
    assert model.num_trainable_parameters() == count


def test_instruction_tuning_with_lora() -> None:
    from peft import LoraConfig

    settings = {"vision_hidden_size": 1024, "num_slots": 576, "projector_hidden_sizes": (4096,)}
    model = get_memvp_model(
        llama(hidden_size=4096, num_layers=32), MemVPConfig(**settings, projector_activation="gelu")
    )
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert model.num_trainable_parameters() == 25_698_304
    model.add_lora(LoraConfig(r=128, lora_alpha=256, target_modules=linears))
    assert model.num_trainable_parameters() == 345_513_984


def test_memory_of_an_image_is_65_536_bytes_for_llama_7b() -> None:
    with torch.device("meta"):
        base = llama(hidden_size=4096, num_layers=2).bfloat16()
    model = get_memvp_model(base, MemVPConfig(vision_hidden_size=1024))
    codes = model.prompt.encode(torch.empty(1, 256, 1024, device="meta")).to(torch.bfloat16)
    assert codes.shape == (1, 256, 128)
    assert codes.nbytes == 65_536
