"""Language model and tokenizer from settings.

`toyworld/language` and `toyworld/vision` name the models shipped with memvp_data.
"""

from typing import Any

import torch

from memvp_train.config import LanguageModelConfig
from memvp_train.models.pretrained import ModelError as ModelError
from memvp_train.models.pretrained import model_config, not_found, overridden, pretrained, seeded
from memvp_train.models.pretrained import resolve_path as resolve_path
from memvp_train.models.vision import build_tower as build_tower


def build_language_model(
    config: LanguageModelConfig,
    *,
    dtype: torch.dtype | None = None,
    meta: bool = False,
    device_in_4bit: torch.device | str | None = None,
) -> Any:
    """The language model, causal or encoder-decoder, in evaluation mode; `dtype` None takes the config's.

    `meta=True` builds it without memory for weights, to count or to export what hangs on it. With `device_in_4bit` its
    linear layers are loaded onto that device in 4 bits; they compute in `dtype`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    chosen: torch.dtype = dtype or getattr(torch, config.dtype)
    settings = _language_settings(config)
    auto: Any = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    if meta or config.random_init:
        with torch.device("meta") if meta else seeded(config.seed):
            return auto.from_config(settings, dtype=chosen).eval()
    options = {} if device_in_4bit is None else _in_4bit(device_in_4bit, dtype=chosen)
    return pretrained(auto, config.path, settings=settings, dtype=chosen, what="language model", **options)


def _in_4bit(device: torch.device | str, *, dtype: torch.dtype) -> dict[str, Any]:
    """NF4, with the scales of its blocks quantised in turn, as QLoRA has it (Dettmers et al. 2023)."""
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def decoder_start_token(config: LanguageModelConfig) -> int | None:
    """The token that an encoder-decoder's decoder begins with; None for a causal model. No weights are read."""
    settings = _language_settings(config)
    if not settings.is_encoder_decoder:
        return None
    start = getattr(settings, "decoder_start_token_id", None)
    if start is None:
        raise ModelError(f"the config of {config.path} has no decoder_start_token_id; set it in language.overrides")
    return int(start)


def _language_settings(config: LanguageModelConfig) -> Any:
    settings = model_config(config.path, what="language model")
    return overridden(settings, config.overrides, path=config.path)


def build_tokenizer(config: LanguageModelConfig) -> Any:
    """The language model's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve_path(config.path))
    except (OSError, ValueError) as error:
        raise ModelError(not_found("tokenizer", config.path, error=error)) from error
