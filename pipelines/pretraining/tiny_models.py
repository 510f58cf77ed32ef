"""Configs and tokenizers of tiny models in the shape of the recipes' large ones, for trials of every recipe in seconds.

    python pipelines/pretraining/tiny_models.py

They have no weights: recipes draw them (`random_init`). The tokenizer is byte-level BPE learnt from the toy world in
every official format, so it spells anything; BART's and T5's put their own special tokens around a text.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionConfig,
    T5Config,
)

from memvp_data.datasets.table import DATASETS
from memvp_data.toyworld.formats.album import FormatConfig
from memvp_data.toyworld.formats.table import FORMATS, write_format

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "tiny"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
VOCABULARY = 640
_WIDTH, _HEADS, _LAYERS = 32, 2, 2
_IDS: dict[str, int] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# What BART and T5 put around a text; LLaMA's templates bring their own.
AROUND = {"bart": "<s> $A </s>", "t5": "$A </s>"}

CHAT_TEMPLATES = {
    "qwen3": "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
}


def language_configs() -> dict[str, Any]:
    """Name of the folder -> config of a language model."""
    shared: dict[str, Any] = {"vocab_size": VOCABULARY, **_IDS}
    bart_ids: dict[str, Any] = {"decoder_start_token_id": 2, "forced_eos_token_id": 2}
    t5_ids: dict[str, Any] = {"decoder_start_token_id": 0}
    decoder: dict[str, Any] = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "max_position_embeddings": 2048,
    }
    bart = {f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in _bart_stack().items()}
    return {
        "bart": BartConfig(
            d_model=_WIDTH, max_position_embeddings=1024, **bart_ids, **bart, **shared
        ),
        "t5": T5Config(
            d_model=_WIDTH, d_kv=_WIDTH // _HEADS, d_ff=2 * _WIDTH, num_layers=_LAYERS, num_heads=_HEADS,
            **t5_ids, **shared,
        ),
        "llama": LlamaConfig(**decoder, **shared),
        "qwen3": Qwen3Config(head_dim=_WIDTH // _HEADS, **decoder, **shared),
    }  # fmt: skip


def _bart_stack() -> dict[str, int]:
    return {"layers": _LAYERS, "attention_heads": _HEADS, "ffn_dim": 2 * _WIDTH}


def tower_configs() -> dict[str, Any]:
    """Name of the folder -> config of a vision tower; images are those of its large counterpart."""
    shared: dict[str, Any] = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
    }
    return {
        "clip_224": CLIPVisionConfig(image_size=224, patch_size=56, **shared),
        "clip_336": CLIPVisionConfig(image_size=336, patch_size=84, **shared),
        "siglip_224": SiglipVisionConfig(image_size=224, patch_size=56, **shared),
    }


def toyworld_texts() -> Iterator[str]:
    """Everything that is asked or answered in the toy world, in every official format that is in the table."""
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(set(FORMATS) & set(DATASETS)):
            root = write_format(name, Path(folder, name), FormatConfig(num_images=24))
            for split in DATASETS[name].splits.values():
                for file in split.files:
                    path = root / file
                    if path.is_file():
                        yield path.read_text(encoding="utf-8")[:200_000]


def learn_tokenizer() -> Tokenizer:
    """Byte-level BPE of `VOCABULARY` tokens; the same on every machine."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(toyworld_texts(), trainer)
    return tokenizer


def main() -> None:
    """Write every folder."""
    tokenizer = learn_tokenizer()
    for name, config in language_configs().items():
        config.save_pretrained(FOLDER / name)
        tokenizer.post_processor = TemplateProcessing(
            single=AROUND.get(name, "$A"), special_tokens=[(token, place) for place, token in enumerate(SPECIAL)]
        )
        named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
        wrapped.chat_template = CHAT_TEMPLATES.get(name)
        wrapped.save_pretrained(FOLDER / name)
    for name, config in tower_configs().items():
        config.save_pretrained(FOLDER / name)
    print(f"wrote {', '.join(sorted(path.name for path in FOLDER.iterdir()))} below {FOLDER}")


if __name__ == "__main__":
    main()
