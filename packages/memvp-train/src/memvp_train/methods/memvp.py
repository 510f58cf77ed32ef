"""MemVP as a tuning method: the model that a stage trains, from settings."""

import warnings
from dataclasses import replace
from typing import Any

import torch

from memvp_core import MemVPConfig, MemVPModel, get_memvp_model
from memvp_train.config import LoraSettings, StageRun, VisionConfig
from memvp_train.models.language import build_language_model
from memvp_train.models.pretrained import ModelError as ModelError
from memvp_train.models.pretrained import resolve_path as resolve_path
from memvp_train.models.vision import build_tower as build_tower
from memvp_train.models.vision import build_vision_tower


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
    finds_scale = config.retrieval_scale == "auto"
    tower = None if vision is None else build_vision_tower(vision, meta=meta)
    if init_adapter is None:
        # The first scale that is tried; training/start.py puts the one that it finds in its place.
        model = get_memvp_model(language_model, replace(config, retrieval_scale=1.0) if finds_scale else config, tower)
    else:
        model = MemVPModel.from_pretrained(language_model, init_adapter, tower)
        if finds_scale:
            config = replace(config, retrieval_scale=model.memvp_config.retrieval_scale)
        if model.memvp_config != config:
            raise ModelError(f"adapter {init_adapter} was trained with {model.memvp_config}, the settings say {config}")
    if lora is not None:
        model.add_lora(lora_config(lora, encoder_decoder=language_model.config.is_encoder_decoder))
    return model


def blank_model(run: StageRun) -> MemVPModel:
    """The model of the stage without weights: its shape is all that checks and adapters need, and a 7B model fits."""
    with warnings.catch_warnings():
        # Of init_adapter only the shape is wanted here, and torch warns that weights without memory are not filled.
        warnings.filterwarnings("ignore", message=".*which is a no-op", category=UserWarning)
        return build_memvp_model(
            build_language_model(run.language, dtype=torch.float32, meta=True),
            memvp=run.memvp,
            lora=run.stage.lora,
            init_adapter=run.init_adapter,
            vision=run.vision,
            meta=True,
        )


def lora_config(settings: LoraSettings, *, encoder_decoder: bool = False) -> Any:
    """The same as PEFT's own config; layers made from it are PEFT's with a faster forward."""
    from peft import LoraConfig

    from memvp_train.models.fused_lora import FusedLoraLinear

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type="SEQ_2_SEQ_LM" if encoder_decoder else "CAUSAL_LM",
    )
    config._register_custom_module({torch.nn.Linear: FusedLoraLinear})
    return config
