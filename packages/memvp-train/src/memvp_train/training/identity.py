"""What a stage is, wherever it runs: its paths made absolute, and the settings that decide its result."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from memvp_core.config import present_names
from memvp_data.files.hashing import folder_hash, hash_file
from memvp_data.samples import SampleError
from memvp_data.shards.manifest import Manifest
from memvp_train.config import StageRun, VisionConfig
from memvp_train.models.fingerprint import model_fingerprint
from memvp_train.models.pretrained import ModelError, resolve_path

# Settings that change when and how often things are written or how the work is cut up, not what is learnt.
_FREE_SETTINGS = ("checkpoint_every", "log_every", "gradient_checkpointing", "compile")
_FREE_SETTINGS += ("micro_batch_size", "token_budget", "packed_tokens")


def absolute(run: StageRun) -> StageRun:
    """Workers run in another folder, perhaps on another machine: every path becomes absolute, and `out` is made."""
    out = Path(run.out).resolve()
    paths = {"samples": _table(run.samples), "validation": None if run.validation is None else _table(run.validation)}
    folders = {name: getattr(run, name) for name in ("features", "images", "init_adapter")}
    folders = {name: None if folder is None else str(Path(folder).resolve()) for name, folder in folders.items()}
    adapter = folders["init_adapter"]
    if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
        raise ModelError(
            f"init_adapter {adapter} has no adapter_config.json; give the adapter folder of a finished stage"
        )
    out.mkdir(parents=True, exist_ok=True)
    language = replace(run.language, path=resolve_path(run.language.path))
    vision = None if run.vision is None else replace(run.vision, path=resolve_path(run.vision.path))
    return replace(run, language=language, vision=vision, out=str(out), **paths, **folders)


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
