"""Shapes of published models, as their config.json gives them, without weights: what a recipe needs to be counted."""

from pathlib import Path
from typing import Any

from transformers import BartConfig, CLIPVisionConfig, LlamaConfig, Qwen3Config, SiglipVisionConfig, T5Config

from memvp_data.toyworld import model_path

_BART = {
    f"{stack}_{name}": value
    for stack in ("encoder", "decoder")
    for name, value in {"layers": 6, "attention_heads": 12, "ffn_dim": 3072}.items()
}
_LLAMA: dict[str, Any] = {"vocab_size": 32000}
_CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}

# By the name in a recipe: the class of its config, and the fields in which it departs from the class's defaults.
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "facebook/bart-base": (BartConfig, {"d_model": 768, **_BART}),
    "google-t5/t5-base": (T5Config, {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}),
    "huggyllama/llama-7b": (LlamaConfig, _LLAMA),
    "lmsys/vicuna-7b-v1.5": (LlamaConfig, _LLAMA),
    "huggyllama/llama-13b": (
        LlamaConfig,
        {**_LLAMA, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    ),
    "Qwen/Qwen3-1.7B": (
        Qwen3Config,
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
    ),
    "openai/clip-vit-large-patch14": (CLIPVisionConfig, {**_CLIP_L, "image_size": 224}),
    "openai/clip-vit-large-patch14-336": (CLIPVisionConfig, {**_CLIP_L, "image_size": 336}),
    "google/siglip2-base-patch16-224": (SiglipVisionConfig, {"image_size": 224, "patch_size": 16}),
}


def write_shape(name: str, folder: Path, **changes: Any) -> Path:
    """Write the config of a published model, with changes, into a folder of its own below `folder`."""
    config, fields = SHAPES[name]
    path = folder / name.rpartition("/")[2]
    config(**{**fields, **changes}).save_pretrained(path)
    return path


def shape_overrides(language: str, vision: str | None, folder: Path, **changes: Any) -> list[str]:
    """Settings that put shapes without weights in the place of a recipe's hub names; timm's RN101 is built in."""
    found = [f"--language.path={write_shape(language, folder, **changes)}", "--language.random_init=true"]
    if vision is None:
        return found
    path = "RN101" if vision.startswith("timm/") else write_shape(vision, folder)
    return [*found, f"--vision.path={path}", "--vision.random_init=true"]


def add_tokenizer(folder: Path) -> None:
    """Put the toy world's tokenizer beside a config."""
    for file in model_path("language").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
