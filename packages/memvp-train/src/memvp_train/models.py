"""Build language model, tokenizer, vision tower and MemVPModel from settings, and say early when they do not fit.

`toyworld/language` and `toyworld/vision` name the models shipped with memvp_data. Nothing is ever run from a model
repository (no remote code), and weights are read from safetensors only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from memvp_core import MemVPConfig, MemVPModel, get_memvp_model
from memvp_data.features import FeatureStore
from memvp_train.config import LanguageModelConfig, LoraSettings, VisionConfig

TOYWORLD = "toyworld/"


class ModelError(ValueError):
    """A model cannot be found or built, or does not fit the features."""


def resolve_path(path: str) -> str:
    """A folder or hub name; `toyworld/...` becomes the shipped folder, an existing folder an absolute path."""
    if path.startswith(TOYWORLD):
        from memvp_data.toyworld import model_path

        return str(model_path(path.removeprefix(TOYWORLD)))  # type: ignore[arg-type]
    return str(Path(path).resolve()) if Path(path).exists() else path


def build_language_model(config: LanguageModelConfig, *, dtype: torch.dtype | None = None, meta: bool = False) -> Any:
    """The causal language model in evaluation mode; `dtype` None takes the config's.

    `meta=True` builds it without memory for weights, to count or to export what hangs on it.
    """
    from transformers import AutoModelForCausalLM

    chosen: torch.dtype = dtype or getattr(torch, config.dtype)
    settings = _model_config(config.path, overrides=config.overrides, what="language model")
    if meta or config.random_init:
        with torch.device("meta") if meta else _seeded(config.seed):
            return AutoModelForCausalLM.from_config(settings, dtype=chosen).eval()
    return _pretrained(AutoModelForCausalLM, config.path, settings=settings, dtype=chosen, what="language model")


def build_tokenizer(config: LanguageModelConfig) -> Any:
    """The language model's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve_path(config.path))
    except (OSError, ValueError) as error:
        raise ModelError(_not_found("tokenizer", config.path, error=error)) from error


def build_tower(config: VisionConfig) -> Any:
    """The vision tower, wholly frozen, fp32, in evaluation mode. CLIP only, as of now."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    path = resolve_path(config.path)
    try:
        settings = CLIPVisionConfig.from_pretrained(path, **(config.overrides or {}))
    except (OSError, ValueError) as error:
        raise ModelError(_not_found("vision tower", config.path, error=error)) from error
    if config.random_init:
        with _seeded(config.seed):
            tower = CLIPVisionModel(settings).eval()
    else:
        tower = _pretrained(CLIPVisionModel, config.path, settings=settings, dtype=torch.float32, what="vision tower")
    return tower.requires_grad_(False)


def build_memvp_model(
    language_model: Any, *, memvp: dict[str, Any], lora: LoraSettings | None, init_adapter: str | None
) -> MemVPModel:
    """The model that a stage trains: a new memory or that of `init_adapter`, then a new LoRA if the stage has one."""
    config = MemVPConfig.from_dict(memvp)
    if init_adapter is None:
        model = get_memvp_model(language_model, config)
    else:
        model = MemVPModel.from_pretrained(language_model, init_adapter)
        if model.memvp_config != config:
            raise ModelError(f"adapter {init_adapter} was trained with {model.memvp_config}, the settings say {config}")
    if lora is not None:
        model.add_lora(lora_config(lora))
    return model


def lora_config(settings: LoraSettings) -> Any:
    """The same as PEFT's own config; layers made from it are PEFT's with a faster forward."""
    from peft import LoraConfig

    from memvp_train.fused_lora import FusedLoraLinear

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({torch.nn.Linear: FusedLoraLinear})
    return config


def check_features(store: FeatureStore, *, memvp: dict[str, Any], folder: str) -> None:
    """Refuse features whose width or number of rows the memory cannot take."""
    rows, width = store.feature_shape
    config = MemVPConfig.from_dict(memvp)
    if width != config.vision_hidden_size:
        raise ModelError(
            f"features in {folder} are {width} wide, memvp.vision_hidden_size is {config.vision_hidden_size}; "
            f"set it to {width} or extract features with the other tower"
        )
    if rows > config.num_slots:
        raise ModelError(
            f"features in {folder} have {rows} rows per image, memvp.num_slots is {config.num_slots}; "
            f"set it to {rows} or more"
        )


def _model_config(path: str, *, overrides: dict[str, Any] | None, what: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(resolve_path(path))
    except (OSError, ValueError) as error:
        raise ModelError(_not_found(what, path, error=error)) from error
    for name, value in (overrides or {}).items():
        if not hasattr(config, name):
            raise ModelError(f"overrides: the config of {path} has no field {name!r}")
        setattr(config, name, value)
    return config


def _pretrained(cls: Any, path: str, *, settings: Any, dtype: torch.dtype, what: str) -> Any:
    from transformers.utils import logging

    # transformers draws a bar even for the two megabytes of the toy world, in the middle of the caller's own.
    logging.disable_progress_bar()
    try:
        return cls.from_pretrained(resolve_path(path), config=settings, dtype=dtype, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(_not_found(what, path, error=error)) from error


def _not_found(what: str, path: str, *, error: Exception) -> str:
    reason = (str(error).splitlines() or [""])[0]
    return f"{what} {path!r} cannot be loaded ({reason}); give a folder with its files or a name the hub knows"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed without moving the generator outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
