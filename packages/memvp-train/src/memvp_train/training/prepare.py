"""Everything before the workers of a stage start: what cannot work is refused, and samples become tokens, once."""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from memvp_core import MemVPModel
from memvp_core.config import present_names
from memvp_data.dataloader.loader import check_tokens
from memvp_data.files.hashing import folder_hash, hash_file
from memvp_data.samples import SampleError
from memvp_data.shards.manifest import Manifest
from memvp_train.checkpoints.disk import check_room
from memvp_train.config import LaunchConfig, StageRun, VisionConfig
from memvp_train.methods.memvp import build_memvp_model
from memvp_train.models.fingerprint import model_fingerprint
from memvp_train.models.language import (
    ModelError,
    build_language_model,
    build_tokenizer,
    decoder_start_token,
    resolve_path,
)
from memvp_train.optim.schedules import base_rate_warning, warmup_steps
from memvp_train.training.batches import check_source
from memvp_train.training.checks import check_launch, check_model
from memvp_train.training.token_cache import EncodedCounts, EncodedError, EncodedTable, write_encoded

# Settings that change when and how often things are written or how the work is cut up, not what is learnt.
_FREE_SETTINGS = ("checkpoint_every", "log_every", "gradient_checkpointing", "compile")
_FREE_SETTINGS += ("micro_batch_size", "token_budget", "packed_tokens")


@dataclass(frozen=True)
class PreparedStage:
    """A stage that has passed every check and can start."""

    run: StageRun
    """The stage, all paths absolute."""
    config: dict[str, Any]
    """What workers are given; plain JSON values."""
    settings: dict[str, Any]
    """What decides the result; a checkpoint of other settings is refused."""
    counts: EncodedCounts
    """Samples to train on."""
    num_steps: int
    """Optimiser steps."""


def prepare_stage(
    run: StageRun, launch: LaunchConfig, *, on_sample: Callable[[int], None] = lambda done: None
) -> PreparedStage:
    """Check all that can be checked without training, and tokenise the samples."""
    run = absolute(run)
    if warning := base_rate_warning(run.stage):
        warnings.warn(warning, stacklevel=2)
    check_launch(run, launch)
    model = blank_model(run)
    check_model(run, model=model)
    check_room(Path(run.out), num_parameters=model.num_trainable_parameters())
    settings = stage_settings(run, precision=launch.precision)
    key = _key(settings, names=("language", "samples", "template", "max_length"))
    table = _encoded(run, name="encoded", key=key, on_sample=on_sample)
    check_tokens(table, token_budget=run.stage.token_budget, packed_tokens=run.stage.packed_tokens)
    check_source(run, table=table)
    validation_key = _key(settings, names=("language", "validation", "template", "max_length"))
    if run.validation is not None:
        held_out = replace(run, samples=run.validation)
        check_source(held_out, table=_encoded(held_out, name="validation", key=validation_key))
    num_steps = run.stage.steps_for(num_samples=len(table))
    config = {
        "run": asdict(run),
        "launch": asdict(launch),
        "settings": settings,
        "encoded_key": key,
        "validation_key": validation_key,
        "decoder_start_token_id": decoder_start_token(run.language),
        "num_steps": num_steps,
        "warmup": warmup_steps(run.stage, num_steps=num_steps, num_samples=len(table)),
    }
    return PreparedStage(run, config, settings, table.counts, num_steps)


def absolute(run: StageRun) -> StageRun:
    """Workers run in another folder, perhaps on another machine: every path becomes absolute."""
    samples, out = _table(run.samples), Path(run.out).resolve()
    folders = {name: getattr(run, name) for name in ("features", "images")}
    folders = {name: None if folder is None else str(Path(folder).resolve()) for name, folder in folders.items()}
    adapter = None if run.init_adapter is None else str(Path(run.init_adapter).resolve())
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise ModelError(
            f"init_adapter {adapter} has no adapter_config.json; give the adapter folder of a finished stage"
        )
    out.mkdir(parents=True, exist_ok=True)
    language = replace(run.language, path=resolve_path(run.language.path))
    paths = {"samples": samples, "validation": None if run.validation is None else _table(run.validation)}
    vision = None if run.vision is None else replace(run.vision, path=resolve_path(run.vision.path))
    return replace(run, language=language, vision=vision, init_adapter=adapter, out=str(out), **paths, **folders)


def _table(path: str) -> str:
    table = Path(path).resolve()
    if not table.is_file():
        raise SampleError(f"samples table {table} does not exist; write it with memvp_data.samples.write_samples")
    return str(table)


def stage_settings(run: StageRun, *, precision: str) -> dict[str, Any]:
    """What decides the result, by content rather than by path where that is cheap."""
    stage = {name: value for name, value in asdict(run.stage).items() if name not in _FREE_SETTINGS}
    if stage["validation"] is not None:
        del stage["validation"]["keep_best"]
    return json.loads(
        json.dumps(
            {
                "language": {**asdict(run.language), "path": model_fingerprint(run.language.path)},
                "memvp": present_names(run.memvp),
                "stage": stage,
                "samples": hash_file(Path(run.samples)),
                "validation": None if run.validation is None else hash_file(Path(run.validation)),
                "features": None if run.features is None else Manifest.load(run.features).digest,
                "images": None if run.images is None else Manifest.load(run.images).digest,
                "vision": None if run.vision is None else _vision_settings(run.vision),
                "init_adapter": None if run.init_adapter is None else folder_hash(Path(run.init_adapter)),
                "precision": precision,
            }
        )
    )


def _vision_settings(vision: VisionConfig) -> dict[str, Any]:
    """The live tower, without what only stored features have."""
    settings = {name: value for name, value in asdict(vision).items() if name not in ("batch_size", "feature_dtype")}
    return {**settings, "path": model_fingerprint(vision.path)}


def _key(settings: dict[str, Any], *, names: tuple[str, ...]) -> str:
    flat = {**settings, **settings["stage"]}
    return hashlib.sha256(json.dumps({name: flat[name] for name in names}, sort_keys=True).encode()).hexdigest()


def _encoded(
    run: StageRun, *, name: str, key: str, on_sample: Callable[[int], None] = lambda done: None
) -> EncodedTable:
    path = Path(run.out) / f"{name}.safetensors"
    try:
        return EncodedTable(path, key=key)
    except EncodedError:
        tokenizer = build_tokenizer(run.language)
    write_encoded(
        Path(run.samples),
        out=path,
        tokenizer=tokenizer,
        template=run.stage.template,
        max_length=run.stage.max_length,
        key=key,
        encoder_decoder=decoder_start_token(run.language) is not None,
        progress=on_sample,
    )
    return EncodedTable(path, key=key)


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
