"""One stage of tuning from settings to an adapter: `run_stage`, the function that pipelines call.

The driver checks everything that can be wrong, tokenises once, starts the workers and writes the adapter from the last
committed checkpoint. Called again after a crash it continues; called again when finished it returns what is there.
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from memvp_data.files.atomic import atomic_write, sync_folder
from memvp_data.files.hashing import folder_hash
from memvp_train.checkpoints.lease import Lease, hold_lease
from memvp_train.checkpoints.quarantine import put_damaged_aside, quarantined
from memvp_train.checkpoints.state import FolderCheckpoints, TrainingState, load_newest, newest_first, present_settings
from memvp_train.config import LaunchConfig, StageRun
from memvp_train.launch.ray_snapshot import clear_cut_off
from memvp_train.training.loop import TrainingError
from memvp_train.training.metrics_log import Row, follow_metrics, read_metrics
from memvp_train.training.prepare import PreparedStage as PreparedStage
from memvp_train.training.prepare import absolute, blank_model, stage_settings
from memvp_train.training.prepare import prepare_stage as prepare_stage
from memvp_train.training.validation import best_state, has_stopped
from memvp_train.training.worker import train_here, train_worker

RESULT_FILE = "result.json"
LOCAL_FOLDER, WORKERS_FOLDER = "checkpoints", "train"


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
    """Optimiser steps that were made; fewer than planned if the patience of validation ended."""
    adapter_step: int
    """The step that the adapter is of: the last, or the best by the validation metric."""
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


def finished_stage(run: StageRun, launch: LaunchConfig) -> StageResult | None:
    """The result of a stage that is done and whose adapter still has its hash, else None."""
    run = absolute(run)
    settings = stage_settings(run, precision=launch.precision)
    try:
        body = json.loads((Path(run.out) / RESULT_FILE).read_bytes())
        result = StageResult(**body["result"])
        is_same = present_settings(body["settings"]) == settings and body["adapter_sha256"] == folder_hash(
            Path(result.adapter_path)
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if is_same and Path(result.metrics_path).is_file() else None


def _train(prepared: PreparedStage, *, launch: LaunchConfig, lease: Lease) -> TrainingState:
    """The state after the last step, trained now unless a checkpoint of it is there."""
    out = Path(prepared.run.out)
    state = _last_state(prepared, launch=launch)
    if state is not None and _is_last(state, prepared):
        return state
    if launch.num_workers == 0:
        train_here(prepared.config, checkpoints=FolderCheckpoints(out / LOCAL_FOLDER, lease=lease))
    else:
        from memvp_train.launch.workers import run_workers

        run_workers(train_worker, config=prepared.config, launch=launch, name=WORKERS_FOLDER, storage=out, lease=lease)
    state = _last_state(prepared, launch=launch)
    if state is None or not _is_last(state, prepared):
        step = 0 if state is None else state.step
        raise TrainingError(f"training in {out} ended at step {step} of {prepared.num_steps}; run the same again")
    return state


def _is_last(state: TrainingState, prepared: PreparedStage) -> bool:
    return state.step == prepared.num_steps or has_stopped(state)


def _last_state(prepared: PreparedStage, *, launch: LaunchConfig) -> TrainingState | None:
    folder = _checkpoints_folder(prepared.run, launch=launch)
    if launch.num_workers:
        clear_cut_off(folder)
    put_damaged_aside(folder)
    return load_newest(newest_first(folder), settings=prepared.settings)


def _checkpoints_folder(run: StageRun, *, launch: LaunchConfig) -> Path:
    return Path(run.out) / (LOCAL_FOLDER if launch.num_workers == 0 else WORKERS_FOLDER)


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
    chosen = _chosen_state(prepared.run, last=state)
    export_adapter(prepared.run, state=chosen, out=adapter)
    result = StageResult(
        adapter_path=str(adapter),
        metrics_path=str(out / "metrics.jsonl"),
        trainable_parameters=sum(tensor.numel() for tensor in state.weights.values()),
        final_loss=read_metrics(out / "metrics.jsonl")[-1]["loss"],
        num_steps=state.step,
        adapter_step=chosen.step,
        num_samples=prepared.counts.num_samples,
        num_dropped=prepared.counts.num_dropped,
        num_shortened=prepared.counts.num_shortened,
        num_prompts_cut=prepared.counts.num_prompts_cut,
        num_quarantined=len(quarantined(_checkpoints_folder(prepared.run, launch=launch))),
    )
    body = {"settings": prepared.settings, "adapter_sha256": folder_hash(adapter), "result": asdict(result)}
    with atomic_write(out / RESULT_FILE) as file:
        file.write(json.dumps(body, indent=1).encode())
    return result


def _chosen_state(run: StageRun, *, last: TrainingState) -> TrainingState:
    settings = run.stage.validation
    keeps_best = settings is not None and settings.keep_best
    return best_state(last, folder=Path(run.out)) if keeps_best else last


def export_adapter(run: StageRun, *, state: TrainingState, out: Path) -> None:
    """Write the trained weights as an adapter folder, atomically."""
    model = blank_model(run)
    state.check_names(model.trainable_state())
    temporary = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state=state.weights)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    sync_folder(out.parent)
