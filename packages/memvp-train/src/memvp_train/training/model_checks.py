"""Whether the models and settings of a job fit together, seen on models without weights before anything is started."""

from collections.abc import Mapping

from torch import nn

from memvp_core import MemVPConfig
from memvp_data.text import TEMPLATES
from memvp_train.config import ConfigError, LanguageModelConfig, LoraSettings, StageConfig, VisionConfig
from memvp_train.methods.memvp import build_memvp_model
from memvp_train.models.language import build_language_model


def check_templates(stages: Mapping[str, StageConfig]) -> None:
    """Every stage names a template there is."""
    for name, stage in stages.items():
        if stage.template not in TEMPLATES:
            raise ConfigError(f"{name}.template must be one of {', '.join(TEMPLATES)}, got {stage.template!r}")


def count_parameters(
    stages: Mapping[str, StageConfig],
    *,
    language: LanguageModelConfig,
    memvp: MemVPConfig,
    vision: VisionConfig | None,
) -> dict[str, int]:
    """Trainable parameters of each stage; `vision` is a tower that trains along."""
    counts = {}
    for name, stage in stages.items():
        language_model = build_language_model(language, meta=True)
        _check_lora(stage.lora, language_model=language_model, setting=f"{name}.lora.target_modules")
        model = build_memvp_model(
            language_model, memvp=memvp.to_dict(), lora=stage.lora, init_adapter=None, vision=vision, meta=True
        )
        counts[name] = model.num_trainable_parameters()
    return counts


def _check_lora(lora: LoraSettings | None, *, language_model: nn.Module, setting: str) -> None:
    found = (name for name, module in language_model.named_modules() if isinstance(module, nn.Linear))
    known = sorted({name.rpartition(".")[2] for name in found})
    unknown = [name for name in (lora.target_modules if lora else ()) if name not in known]
    if unknown:
        raise ConfigError(f"{setting}: the language model has no {', '.join(unknown)}; it has {', '.join(known)}")
