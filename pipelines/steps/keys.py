"""What each step depends on, as plain data: the part of a step's key that settings and outside files make.

Light on purpose: deciding that every step can be re-used builds no model and reads no image.
"""

from pathlib import Path
from typing import Any

from memvp_data.files.hashing import folder_hash
from memvp_train.config import StageConfig
from pipelines.config.benchmarks import AnswerConfig, ComparisonConfig, FinetuneConfig
from pipelines.config.instruct import JobConfig
from pipelines.config.plain import as_settings
from pipelines.data.sources import Config, source_of
from pipelines.workflow.digests import folder_digest, input_digest, model_digest

# These change how long training takes, by whom or when it is saved, not what it learns.
_FREE_LAUNCH_SETTINGS = {
    "num_workers",
    "local_processes",
    "cpus_per_worker",
    "max_failures",
    "dashboard_port",
    "timeout_seconds",
    "loader_processes",
    "hang_seconds",
}
_FREE_STAGE_SETTINGS = {"checkpoint_every", "log_every"}


def for_build_shards(config: Config, *, benchmark: str = "") -> dict[str, Any]:
    """The data settings, and for files that exist already their identity."""
    source = source_of(config, benchmark)
    settings = {**source.settings(), "max_shard_samples": config.data.max_shard_samples}
    if source.root is None:
        return settings
    files = {path: _identity(source.root / path) for path in source.files().values()}
    folders = {path: folder_digest(source.root / path) for path in sorted(set(source.folders().values()))}
    return {**settings, "files": files, "folders": folders}


def _identity(path: Path) -> str:
    return folder_digest(path) if path.is_dir() else input_digest(path)


def for_extract_features(config: Config) -> dict[str, Any]:
    """The tower; none for videos, whose features are published."""
    if config.vision is None:
        return {"vision": None}
    return {"vision": as_settings(config.vision), "weights": model_digest(config.vision.path)}


def for_stage(config: JobConfig | FinetuneConfig, *, stage: str) -> dict[str, Any]:
    """Language model, memory, schedule, workers; the tower too if it trains along."""
    settings = _for_stage(config, config.stages[stage])
    return {**settings, **for_extract_features(config)} if trains_tower(config) else settings


def trains_tower(config: Config) -> bool:
    """Whether adapters in the vision tower train: then features cannot be stored."""
    return config.vision is not None and config.vision.adapter_dim > 0


def _for_stage(config: JobConfig | FinetuneConfig, stage: StageConfig) -> dict[str, Any]:
    return {
        "stage": _without(as_settings(stage), _FREE_STAGE_SETTINGS),
        "memvp": as_settings(config.memvp),
        "language": as_settings(config.language),
        "weights": model_digest(config.language.path),
        "launch": _without(as_settings(config.launch), _FREE_LAUNCH_SETTINGS),
        "train_with_images": config.train_with_images,
    }


def for_answers(config: FinetuneConfig) -> dict[str, Any]:
    """How questions of a tuned task are asked and scored."""
    return {
        "answers": _without_speed(config.answers),
        "language": as_settings(config.language),
        "template": config.stage.template,
        "tests": list(config.data.tests),
        **(for_extract_features(config) if trains_tower(config) else {}),
    }


def for_comparison(config: ComparisonConfig, *, benchmark: str, adapter: str) -> dict[str, Any]:
    """How one adapter answers one benchmark; the adapter by its files."""
    path = config.adapters[adapter]
    return {
        "answers": _without_speed(config.answers),
        "language": as_settings(config.language),
        "weights": model_digest(config.language.path),
        "template": template_of(config, benchmark),
        "adapter": None if path is None else folder_hash(Path(path)),
        **(for_extract_features(config) if trains_tower(config) else {}),
    }


def template_of(config: ComparisonConfig, benchmark: str) -> str:
    """The template a benchmark is asked in."""
    from memvp_data.text.templates import DEFAULT_TEMPLATES

    return config.templates.get(benchmark, DEFAULT_TEMPLATES[benchmark])


def _without_speed(answers: AnswerConfig) -> dict[str, Any]:
    """Answers do not depend on how many questions are asked at once."""
    return _without(as_settings(answers), {"batch_size"})


def for_evaluate(config: JobConfig) -> dict[str, Any]:
    """How questions are asked and pictures drawn."""
    return {
        "evaluate": as_settings(config.evaluate),
        "language": as_settings(config.language),
        "template": config.stage2.template,
        "preprocessing": config.vision.preprocessing,
        "upright": config.vision.upright,
    }


def for_register(config: JobConfig | FinetuneConfig) -> dict[str, Any]:
    """Where to, and what the registered model needs."""
    return {"tracking": as_settings(config.tracking), "serving": serving_settings(config)}


def serving_settings(config: JobConfig | FinetuneConfig) -> dict[str, Any]:
    """What the registered model needs to answer: foundation models, template, answer length."""
    answers = config.evaluate if isinstance(config, JobConfig) else config.answers
    *_, last = config.stages.values()
    return {
        "language": _absolute(as_settings(config.language)),
        "vision": None if config.vision is None else _absolute(as_settings(config.vision)),
        "template": last.template,
        "max_new_tokens": answers.max_new_tokens,
    }


def _absolute(model: dict[str, Any]) -> dict[str, Any]:
    """A model folder named relative to this job's working directory must still be found from another one."""
    path = Path(model["path"])
    return {**model, "path": str(path.resolve())} if path.is_dir() else model


def _without(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
