"""Checks that cost nothing, made before anything is started: files exist, MLflow answers, models fit together."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from memvp_train.config import LoraSettings
from pipelines.config.errors import RecipeError
from pipelines.config.instruct import JobConfig
from pipelines.data.sources import Source, source_of, test_files
from pipelines.steps.keys import trains_tower
from pipelines.workflow.step import Step

_SECONDS_FOR_AN_ANSWER = 5.0
_SQLITE_MAGIC = b"SQLite format 3\0"


def check_sources(config: Any, steps: Sequence[Step]) -> None:
    """Every official file and image folder that a step reads exists; the toy world brings its own.

    Raises:
        RecipeError: naming the setting and the path.
    """
    for benchmark in dict.fromkeys(step.about["benchmark"] for step in steps if "benchmark" in step.about):
        _check_source(source_of(config, benchmark))


def _check_source(source: Source) -> None:
    root = source.root
    if root is None:
        return
    if not root.is_dir():
        raise RecipeError(f"{source.setting}: no folder {root.absolute()}{_ray_job_note(root)}")
    for setting, path in source.files().items():
        if not (root / path).exists():
            raise RecipeError(f"{setting}: no file {root.absolute() / path}; put it there or correct the setting")
    for setting, path in source.folders().items():
        if not (root / path).is_dir():
            raise RecipeError(f"{setting}: no folder {root.absolute() / path}; put the images there")


def check_gate(config: Any) -> None:
    """The slice that the gate looks at is one that the job scores.

    Raises:
        RecipeError: naming those there are.
    """
    wanted = config.tracking.gate.slice
    if isinstance(config, JobConfig):
        scored = tuple(name for name in test_files(config.data) if name != "described")
    else:
        scored = getattr(config.data, "tests", ())
    if wanted is not None and wanted not in scored:
        known = ", ".join(scored) or "nothing, as this job scores no model of its own"
        raise RecipeError(f"tracking.gate.slice must be one of {known}, got {wanted!r}")


def _ray_job_note(path: Path) -> str:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not path.is_absolute():
        return "; inside a Ray job the working directory is a copy, so give an absolute path"
    return "; put the official files there or set data.root"


def tracking_address(config: Any, *, storage: Path) -> str:
    """Where MLflow is: tracking.uri, else $MLFLOW_TRACKING_URI, else a database in the storage folder."""
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage / 'mlflow.db'}"


def check_tracking(uri: str) -> None:
    """A server answers, a database file is one, a folder is refused (MLflow no longer writes to folders).

    Raises:
        RecipeError: naming the address.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _check_server(uri)
    elif scheme == "sqlite":
        _check_database(Path(uri.removeprefix("sqlite:///")), uri=uri)
    elif scheme in ("", "file"):
        raise RecipeError(
            f"tracking.uri {uri!r} is a folder; MLflow needs sqlite:///<file>.db or http://<server>:<port>"
        )


def _check_server(uri: str) -> None:
    address = f"{uri.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS_FOR_AN_ANSWER):
            return
    except urllib.error.HTTPError as error:
        # A server behind a log-in answers 401 or 403: it is there, and MLflow's own client knows the password.
        if error.code < 500 and error.code != 404:
            return
        reason = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise RecipeError(
        f"the MLflow server at {uri} does not answer ({reason}); start it, correct tracking.uri, "
        "or leave tracking.uri out for a database in the storage folder"
    )


def _check_database(path: Path, *, uri: str) -> None:
    if not path.parent.is_dir():
        raise RecipeError(f"tracking.uri {uri!r}: no folder {path.parent}")
    if path.is_file() and path.stat().st_size and path.open("rb").read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
        raise RecipeError(f"tracking.uri {uri!r}: {path} is not an SQLite database; move it away or name another file")


def check_models(config: Any) -> dict[str, int]:
    """Models, tokenizer, templates and launch fit together; no weights are read. Returns trainable counts.

    Raises:
        RecipeError or the ValueError of the part that does not fit, naming the settings.
    """
    from memvp_train.launch.checks import check_launch
    from memvp_train.models.language import build_tokenizer

    check_launch(config.launch)
    for name, stage in config.stages.items():
        _check_known(f"{name}.template", stage.template)
    if config.vision is not None and config.stages:
        _check_features(config)
    build_tokenizer(config.language)
    return planned_parameters(config)


def planned_parameters(config: Any) -> dict[str, int]:
    """Trainable parameters of each stage, counted on models without weights."""
    from memvp_train.methods.memvp import build_memvp_model
    from memvp_train.models.language import build_language_model

    counts = {}
    for name, stage in config.stages.items():
        language_model = build_language_model(config.language, meta=True)
        _check_lora(stage.lora, language_model=language_model, setting=f"{name}.lora.target_modules")
        model = build_memvp_model(
            language_model,
            memvp=config.memvp.to_dict(),
            lora=stage.lora,
            init_adapter=None,
            vision=config.vision if trains_tower(config) else None,
            meta=True,
        )
        counts[name] = model.num_trainable_parameters()
    return counts


def _check_lora(lora: LoraSettings | None, *, language_model: Any, setting: str) -> None:
    from torch.nn import Linear

    found = (name for name, module in language_model.named_modules() if isinstance(module, Linear))
    known = sorted({name.rpartition(".")[2] for name in found})
    unknown = [name for name in (lora.target_modules if lora else ()) if name not in known]
    if unknown:
        raise RecipeError(f"{setting}: the language model has no {', '.join(unknown)}; it has {', '.join(known)}")


def _check_known(setting: str, template: str) -> None:
    from memvp_data.text import TEMPLATES

    if template not in TEMPLATES:
        raise RecipeError(f"{setting} must be one of {', '.join(TEMPLATES)}, got {template!r}")


def _check_features(config: Any) -> None:
    """What the tower will give against what the memory takes, from the tower's config alone."""
    from memvp_train.models.pretrained import ModelError
    from memvp_train.models.vision import feature_shape

    try:
        shape, memvp = feature_shape(config.vision), config.memvp
    except ModelError as error:
        raise RecipeError(str(error)) from error
    if memvp.vision_hidden_size != shape.width:
        raise RecipeError(
            f"memvp.vision_hidden_size is {memvp.vision_hidden_size}, the tower's are {shape.width} wide; "
            f"set it to {shape.width}"
        )
    if memvp.num_slots < shape.num_rows:
        raise RecipeError(
            f"memvp.num_slots is {memvp.num_slots}, an image has {shape.num_rows} features; "
            f"set {shape.num_rows} or more"
        )
