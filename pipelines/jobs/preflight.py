"""Checks that cost nothing, made before anything is started: files exist, MLflow answers, models fit together."""

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.config.errors import RecipeError
from pipelines.config.instruct import JobConfig
from pipelines.data.sources import Source, source_of, test_files
from pipelines.steps.keys import trains_tower
from pipelines.tracking.run_ids import database_path
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
    lowest = config.tracking.gate.min_score
    if isinstance(config, JobConfig) and not 0 <= lowest <= 1:
        raise RecipeError(f"tracking.gate.min_score is an accuracy between 0 and 1 here, got {lowest}; try 0.9")


def check_adapters(config: Any) -> None:
    """The adapters that a comparison names are there. Raises RecipeError."""
    for name, path in getattr(config, "adapters", {}).items():
        if path is not None and not Path(path, "adapter_config.json").is_file():
            raise RecipeError(f"adapters.{name}: {path} has no adapter_config.json; give the folder of an adapter")


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
        path = database_path(uri)
        if path is not None:
            _check_database(path, uri=uri)
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
        The ValueError of the part that does not fit, naming the settings.
    """
    from memvp_train.launch.checks import check_launch
    from memvp_train.models.language import build_tokenizer
    from memvp_train.models.pretrained import ModelError
    from memvp_train.training.image_checks import check_tower_shape
    from memvp_train.training.model_checks import check_templates

    check_launch(config.launch)
    check_templates(config.stages)
    if config.vision is not None and config.stages:
        try:
            check_tower_shape(config.vision, config.memvp)
        except ModelError as error:
            raise RecipeError(str(error)) from error
    build_tokenizer(config.language)
    return planned_parameters(config)


def planned_parameters(config: Any) -> dict[str, int]:
    """Trainable parameters of each stage, counted on models without weights."""
    from memvp_train.training.model_checks import count_parameters

    if not config.stages:
        return {}
    vision = config.vision if trains_tower(config) else None
    return count_parameters(config.stages, language=config.language, memvp=config.memvp, vision=vision)
