"""Build language model, tokenizer, vision tower and MemVPModel from settings, and say early when they do not fit.

`toyworld/language` and `toyworld/vision` name the models shipped with memvp_data.
"""

from typing import Any

import torch

from memvp_core import MemVPConfig, MemVPModel, get_memvp_model
from memvp_data.features import FeatureStore
from memvp_data.loader import check_slots
from memvp_data.token_table import TokenTable
from memvp_train.config import LanguageModelConfig, LoraSettings, VisionConfig
from memvp_train.loading import ModelError as ModelError
from memvp_train.loading import model_config, not_found, overridden, pretrained, seeded
from memvp_train.loading import resolve_path as resolve_path
from memvp_train.towers import build_tower as build_tower
from memvp_train.towers import build_vision_tower


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


def build_memvp_model(
    language_model: Any,
    *,
    memvp: dict[str, Any],
    lora: LoraSettings | None,
    init_adapter: str | None,
    vision: VisionConfig | None = None,
    meta: bool = False,
) -> MemVPModel:
    """The model that a stage trains: a new memory or that of `init_adapter`, then a new LoRA if the stage has one.

    With `vision` it has a live tower and takes pixels; `meta` builds that without memory for weights.
    """
    config = MemVPConfig.from_dict(memvp)
    tower = None if vision is None else build_vision_tower(vision, meta=meta)
    if init_adapter is None:
        model = get_memvp_model(language_model, config, tower)
    else:
        model = MemVPModel.from_pretrained(language_model, init_adapter, tower)
        if model.memvp_config != config:
            raise ModelError(f"adapter {init_adapter} was trained with {model.memvp_config}, the settings say {config}")
    if lora is not None:
        model.add_lora(lora_config(lora, encoder_decoder=language_model.config.is_encoder_decoder))
    return model


def lora_config(settings: LoraSettings, *, encoder_decoder: bool = False) -> Any:
    """The same as PEFT's own config; layers made from it are PEFT's with a faster forward."""
    from peft import LoraConfig

    from memvp_train.fused_lora import FusedLoraLinear

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="SEQ_2_SEQ_LM" if encoder_decoder else "CAUSAL_LM",
    )
    config._register_custom_module({torch.nn.Linear: FusedLoraLinear})
    return config


def check_features(store: FeatureStore, *, memvp: dict[str, Any], folder: str) -> None:
    """Refuse features whose width or number of rows the memory cannot take."""
    rows, width = store.feature_shape
    check_shape(rows, width, memvp=memvp, what=f"features in {folder}", remedy="extract features with the other tower")


def check_shape(num_rows: int, width: int, *, memvp: dict[str, Any], what: str, remedy: str) -> None:
    """Refuse rows of an image that are of another width, or more, than the memory takes."""
    config = MemVPConfig.from_dict(memvp)
    if width != config.vision_hidden_size:
        raise ModelError(
            f"{what} are {width} wide, memvp.vision_hidden_size is {config.vision_hidden_size}; "
            f"set it to {width} or {remedy}"
        )
    if num_rows > config.num_slots and config.position_mode == "add":
        raise ModelError(
            f"{what} have {num_rows} rows per image, memvp.num_slots is {config.num_slots}; "
            f"set it to {num_rows} or more"
        )


def check_entries(table: TokenTable, *, num_rows: int, memvp: dict[str, Any]) -> None:
    """Refuse, by name, a sample whose images do not fit side by side into the memory."""
    config = MemVPConfig.from_dict(memvp)
    most = int(table.entry_sizes.max(initial=0))
    if config.position_mode == "add":
        check_slots(table, num_rows=num_rows, num_slots=config.num_slots)
    if 1 < config.num_images < most:
        name = table[table.image_numbers.tolist().index(int(table.entry_sizes.argmax()))].id
        raise ModelError(
            f"sample {name!r} has {most} images, memvp.num_images is {config.num_images}; set it to {most} or more"
        )
