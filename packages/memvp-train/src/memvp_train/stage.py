"""One stage of tuning from settings to an adapter: `run_stage`, the function that pipelines call.

The driver checks everything that can be wrong, tokenises once, starts the workers and writes the adapter from the last
committed checkpoint. Called again after a crash it continues; called again when finished it returns what is there.
"""

import hashlib
import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from memvp_core import MemVPModel
from memvp_data.atomic import atomic_write, sync_folder
from memvp_data.manifest import Manifest, hash_file
from memvp_data.samples import SampleError
from memvp_train.batches import check_source
from memvp_train.checkpoint import FolderCheckpoints, TrainingState, load_newest, newest_first
from memvp_train.config import LaunchConfig, StageRun, VisionConfig, check_batch_split
from memvp_train.disk import check_room
from memvp_train.encoded import EncodedCounts, EncodedError, EncodedTable, write_encoded
from memvp_train.lease import Lease, hold_lease
from memvp_train.loop import TrainingError
from memvp_train.metrics import Row, follow_metrics, read_metrics
from memvp_train.models import (
    ModelError,
    build_language_model,
    build_memvp_model,
    build_tokenizer,
    decoder_start_token,
    resolve_path,
)
from memvp_train.optim import check_groups
from memvp_train.quarantine import put_damaged_aside, quarantined
from memvp_train.schedules import base_rate_warning, warmup_steps
from memvp_train.snapshot import clear_cut_off
from memvp_train.worker import train_here, train_worker

RESULT_FILE = "result.json"
LOCAL_FOLDER, WORKERS_FOLDER = "checkpoints", "train"
# Settings that change when and how often things are written or how the work is cut up, not what is learnt.
_FREE_SETTINGS = ("checkpoint_every", "log_every", "gradient_checkpointing", "compile")
_FREE_SETTINGS += ("micro_batch_size", "token_budget", "packed_tokens")


@dataclass(frozen=True)
class StageResult:
    """What a finished stage left."""

    adapter_path: str
    """Folder for MemVPModel.from_pretrained."""
    metrics_path: str
    """One JSON line per step."""
    trainable_parameters: int
    """Numbers that were trained."""
    final_loss: float
    """Loss of the last step."""
    num_steps: int
    """Optimiser steps."""
    num_samples: int
    """Samples in the table that could be used."""
    num_dropped: int
    """Samples left out because max_length cut off every label."""
    num_shortened: int = 0
    """Samples used of whose labels max_length cut off some."""
    num_prompts_cut: int = 0
    """Samples used out of whose prompt tokens were taken for max_length."""
    num_quarantined: int = 0
    """Checkpoints that were found damaged and put aside; quarantine.json beside the checkpoints says why."""


def run_stage(
    run: StageRun,
    launch: LaunchConfig,
    *,
    on_step: Callable[[Row], None] = lambda row: None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> StageResult:
    """Train a stage, or continue it, or return it if it is done.

    `on_step` gets each row of metrics.jsonl once, from a thread, as it appears; `on_sample` the number of samples
    tokenised so far. Raises a `ValueError` with one sentence for whatever the caller can mend, before workers start.
    """
    done = finished_stage(run, launch)
    if done is not None:
        return done
    out = Path(run.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with hold_lease(out, doing="training in") as lease:
        prepared = prepare_stage(run, launch, on_sample=on_sample)
        with _following(out / "metrics.jsonl", on_step=on_step):
            state = _train(prepared, launch=launch, lease=lease)
        lease.check()
        return _publish(prepared, state=state, launch=launch)


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
    run = _absolute(run)
    check_batch_split(run.stage, num_workers=launch.num_workers)
    if warning := base_rate_warning(run.stage):
        warnings.warn(warning, stacklevel=2)
    trainable = _blank_model(run).trainable_state()
    check_groups(trainable, stage=run.stage)
    check_room(Path(run.out), num_parameters=sum(tensor.numel() for tensor in trainable.values()))
    settings = _settings(run, precision=launch.precision)
    key = _key(settings, names=("language", "samples", "template", "max_length"))
    table = _encoded(run, key=key, on_sample=on_sample)
    check_source(run, table=table)
    num_steps = run.stage.steps_for(num_samples=len(table))
    config = {
        "run": asdict(run),
        "launch": asdict(launch),
        "settings": settings,
        "encoded_key": key,
        "decoder_start_token_id": decoder_start_token(run.language),
        "num_steps": num_steps,
        "warmup": warmup_steps(run.stage, num_steps=num_steps, num_samples=len(table)),
    }
    return PreparedStage(run, config, settings, table.counts, num_steps)


def finished_stage(run: StageRun, launch: LaunchConfig) -> StageResult | None:
    """The result of a stage that is done and whose adapter still has its hash, else None."""
    run = _absolute(run)
    settings = _settings(run, precision=launch.precision)
    try:
        body = json.loads((Path(run.out) / RESULT_FILE).read_bytes())
        result = StageResult(**body["result"])
        is_same = body["settings"] == settings and body["adapter_sha256"] == _folder_hash(Path(result.adapter_path))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if is_same and Path(result.metrics_path).is_file() else None


def _train(prepared: PreparedStage, *, launch: LaunchConfig, lease: Lease) -> TrainingState:
    """The state after the last step, trained now unless a checkpoint of it is there."""
    out = Path(prepared.run.out)
    state = _last_state(prepared, launch=launch)
    if state is not None and state.step == prepared.num_steps:
        return state
    if launch.num_workers == 0:
        train_here(prepared.config, checkpoints=FolderCheckpoints(out / LOCAL_FOLDER, lease=lease))
    else:
        from memvp_train.launch import run_workers

        run_workers(train_worker, config=prepared.config, launch=launch, name=WORKERS_FOLDER, storage=out, lease=lease)
    state = _last_state(prepared, launch=launch)
    if state is None or state.step != prepared.num_steps:
        step = 0 if state is None else state.step
        raise TrainingError(f"training in {out} ended at step {step} of {prepared.num_steps}; run the same again")
    return state


def _last_state(prepared: PreparedStage, *, launch: LaunchConfig) -> TrainingState | None:
    folder = _checkpoints_folder(prepared.run, launch=launch)
    clear_cut_off(folder)
    put_damaged_aside(folder)
    return load_newest(newest_first(folder), settings=prepared.settings)


def _checkpoints_folder(run: StageRun, *, launch: LaunchConfig) -> Path:
    return Path(run.out) / (LOCAL_FOLDER if launch.num_workers == 0 else WORKERS_FOLDER)


def _absolute(run: StageRun) -> StageRun:
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


def _settings(run: StageRun, *, precision: str) -> dict[str, Any]:
    """What decides the result, by content rather than by path where that is cheap."""
    stage = {name: value for name, value in asdict(run.stage).items() if name not in _FREE_SETTINGS}
    return json.loads(
        json.dumps(
            {
                "language": {**asdict(run.language), "path": _model_fingerprint(run.language.path)},
                "memvp": run.memvp,
                "stage": stage,
                "samples": hash_file(Path(run.samples)),
                "validation": None if run.validation is None else hash_file(Path(run.validation)),
                "features": None if run.features is None else Manifest.load(run.features).digest,
                "images": None if run.images is None else Manifest.load(run.images).digest,
                "vision": None if run.vision is None else _vision_settings(run.vision),
                "init_adapter": None if run.init_adapter is None else _folder_hash(Path(run.init_adapter)),
                "precision": precision,
            }
        )
    )


def _vision_settings(vision: VisionConfig) -> dict[str, Any]:
    """The live tower, without what only stored features have."""
    settings = {name: value for name, value in asdict(vision).items() if name not in ("batch_size", "feature_dtype")}
    return {**settings, "path": _model_fingerprint(vision.path)}


def _model_fingerprint(path: str) -> str:
    """The name on the hub, or the files of a folder: their hashes up to 64 MB, above it their lengths."""
    if not Path(path).is_dir():
        return path
    files = sorted(file for pattern in ("*.json", "*.safetensors") for file in Path(path).glob(pattern))
    sizes = {file: file.stat().st_size for file in files}
    lines = [f"{file.name} {size if size > 64 << 20 else hash_file(file)}" for file, size in sizes.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _folder_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{path.relative_to(folder)} {hash_file(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _key(settings: dict[str, Any], *, names: tuple[str, ...]) -> str:
    flat = {**settings, **settings["stage"]}
    return hashlib.sha256(json.dumps({name: flat[name] for name in names}, sort_keys=True).encode()).hexdigest()


def _encoded(run: StageRun, *, key: str, on_sample: Callable[[int], None]) -> EncodedTable:
    path = Path(run.out) / "encoded.safetensors"
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


@contextmanager
def _following(path: Path, *, on_step: Callable[[Row], None]) -> Iterator[None]:
    """Hand the rows of metrics.jsonl to `on_step` from a thread while the block runs, the rest when it ends."""
    stop = threading.Event()

    def follow() -> None:
        for row in follow_metrics(path, stop=stop):
            on_step(row)

    thread = threading.Thread(target=follow, name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _publish(prepared: PreparedStage, *, state: TrainingState, launch: LaunchConfig) -> StageResult:
    """Write the adapter and, last, the result."""
    out = Path(prepared.run.out)
    adapter = out / "adapter"
    export_adapter(prepared.run, state=state, out=adapter)
    result = StageResult(
        adapter_path=str(adapter),
        metrics_path=str(out / "metrics.jsonl"),
        trainable_parameters=sum(tensor.numel() for tensor in state.weights.values()),
        final_loss=read_metrics(out / "metrics.jsonl")[-1]["loss"],
        num_steps=state.step,
        num_samples=prepared.counts.num_samples,
        num_dropped=prepared.counts.num_dropped,
        num_shortened=prepared.counts.num_shortened,
        num_prompts_cut=prepared.counts.num_prompts_cut,
        num_quarantined=len(quarantined(_checkpoints_folder(prepared.run, launch=launch))),
    )
    body = {"settings": prepared.settings, "adapter_sha256": _folder_hash(adapter), "result": asdict(result)}
    with atomic_write(out / RESULT_FILE) as file:
        file.write(json.dumps(body, indent=1).encode())
    return result


def _blank_model(run: StageRun) -> MemVPModel:
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


def export_adapter(run: StageRun, *, state: TrainingState, out: Path) -> None:
    """Write the trained weights as an adapter folder, atomically."""
    model = _blank_model(run)
    state.check_names(model.trainable_state())
    temporary = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state=state.weights)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    sync_folder(out.parent)
