"""What each step depends on, as plain data: the part of a step's key that settings and outside files make.

Light on purpose: deciding that every step can be re-used must not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memvp_train.config import StageConfig
from pipelines.config import DataConfig, JobConfig, QuestionFile, as_settings
from pipelines.fingerprint import folder_digest, input_digest, model_digest

TEST_SLICES = ("image", "unseen", "text_only", "described")
# These change how long training takes or when it is saved, not what it learns.
_FREE_LAUNCH_SETTINGS = {"max_failures", "dashboard_port", "timeout_seconds"}
_FREE_STAGE_SETTINGS = {"checkpoint_every", "log_every"}


def test_files(data: DataConfig) -> dict[str, QuestionFile]:
    """The test slices that are configured, by name."""
    found = {name: getattr(data.test, name) for name in TEST_SLICES} if data.test else {}
    return {name: files for name, files in found.items() if files is not None}


def official_files(data: DataConfig) -> dict[str, str]:
    """Setting -> path, relative to data.root, of every annotation file the job reads."""
    files = {
        "data.stage1.conversations": data.stage1.conversations,
        "data.stage2.conversations": data.stage2.conversations,
    }
    for name, test in test_files(data).items():
        files[f"data.test.{name}.questions"] = test.questions
        files[f"data.test.{name}.answers"] = test.answers
    return files


def image_folders(data: DataConfig) -> dict[str, str]:
    """Setting -> path, relative to data.root, of every folder that holds images."""
    folders = {"data.stage1.images": data.stage1.images, "data.stage2.images": data.stage2.images}
    tests = {f"data.test.{name}.images": test.images for name, test in test_files(data).items()}
    return folders | {setting: path for setting, path in tests.items() if path is not None}


def for_build_shards(config: JobConfig) -> dict[str, Any]:
    """The data settings, and for files that exist already their identity."""
    data = config.data
    if data.root is None:
        return as_settings(data)
    root = Path(data.root)
    files = {path: input_digest(root / path) for path in official_files(data).values()}
    folders = {path: folder_digest(root / path) for path in sorted(set(image_folders(data).values()))}
    return {**as_settings(data), "files": files, "folders": folders}


def for_extract_features(config: JobConfig) -> dict[str, Any]:
    """The tower."""
    return {"vision": as_settings(config.vision), "weights": model_digest(config.vision.path)}


def for_stage1(config: JobConfig) -> dict[str, Any]:
    """Language model, memory, schedule, workers."""
    return _for_stage(config, config.stage1)


def for_stage2(config: JobConfig) -> dict[str, Any]:
    """As stage 1."""
    return _for_stage(config, config.stage2)


def _for_stage(config: JobConfig, stage: StageConfig) -> dict[str, Any]:
    return {
        "stage": _without(as_settings(stage), _FREE_STAGE_SETTINGS),
        "memvp": as_settings(config.memvp),
        "language": as_settings(config.language),
        "weights": model_digest(config.language.path),
        "launch": _without(as_settings(config.launch), _FREE_LAUNCH_SETTINGS),
        "train_with_images": config.train_with_images,
    }


def for_evaluate(config: JobConfig) -> dict[str, Any]:
    """How questions are asked and pictures drawn."""
    return {
        "evaluate": as_settings(config.evaluate),
        "language": as_settings(config.language),
        "template": config.stage2.template,
        "preprocessing": config.vision.preprocessing,
    }


def for_register(config: JobConfig) -> dict[str, Any]:
    """Where to, and what the registered model needs."""
    return {"tracking": as_settings(config.tracking), "serving": serving_settings(config)}


def serving_settings(config: JobConfig) -> dict[str, Any]:
    """What the registered model needs to answer: foundation models, template, answer length."""
    return {
        "language": _absolute(as_settings(config.language)),
        "vision": _absolute(as_settings(config.vision)),
        "template": config.stage2.template,
        "max_new_tokens": config.evaluate.max_new_tokens,
    }


def _absolute(model: dict[str, Any]) -> dict[str, Any]:
    """A model folder named relative to this job's working directory must still be found from another one."""
    path = Path(model["path"])
    return {**model, "path": str(path.resolve())} if path.is_dir() else model


def _without(settings: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
