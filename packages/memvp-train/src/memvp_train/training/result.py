"""What a finished stage leaves: its adapter and, written last, result.json, by which a later call knows it is done."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memvp_data.files.atomic import atomic_write, sync_folder
from memvp_data.files.hashing import folder_hash
from memvp_train.checkpoints.quarantine import quarantined
from memvp_train.checkpoints.state import TrainingState, present_settings
from memvp_train.config import StageRun
from memvp_train.methods.memvp import blank_model
from memvp_train.training.base_model import noted_base
from memvp_train.training.drive import checkpoints_folder
from memvp_train.training.metrics_log import METRICS_FILE, read_metrics
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.start import restore_scale
from memvp_train.training.validation import best_state

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class StageResult:
    """What a finished stage left."""

    adapter_path: str
    """Folder for MemVPModel.from_pretrained."""
    metrics_path: str
    """One JSON line per step."""
    trainable_parameters: int
    """Numbers that were trained."""
    final_loss: float | None
    """Loss of the last step; None if metrics.jsonl was lost after it."""
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


def finished_stage(out: Path, *, settings: dict[str, Any]) -> StageResult | None:
    """The result of a stage of these settings that is done and whose adapter still has its hash, else None."""
    try:
        body = json.loads((out / RESULT_FILE).read_bytes())
        result = StageResult(**body["result"])
        is_same = present_settings(body["settings"]) == settings
        is_whole = body["adapter_sha256"] == folder_hash(Path(result.adapter_path))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result if is_same and is_whole else None


def publish(plan: WorkerPlan, *, state: TrainingState, base_name: str) -> StageResult:
    """Write the adapter of the last or the best state and, last, the result.

    `base_name` is what the adapter calls its language model.
    """
    out = Path(plan.run.out)
    adapter, metrics = out / "adapter", out / METRICS_FILE
    chosen = _chosen_state(plan.run, last=state)
    export_adapter(plan.run, state=chosen, out=adapter, base_name=base_name)
    rows = read_metrics(metrics)
    result = StageResult(
        adapter_path=str(adapter),
        metrics_path=str(metrics),
        trainable_parameters=sum(tensor.numel() for tensor in state.weights.values()),
        final_loss=rows[-1]["loss"] if rows else None,
        num_steps=state.step,
        adapter_step=chosen.step,
        **asdict(plan.counts),
        num_quarantined=len(quarantined(checkpoints_folder(out, launch=plan.launch))),
    )
    body = {"settings": plan.settings, "adapter_sha256": folder_hash(adapter), "result": asdict(result)}
    with atomic_write(out / RESULT_FILE) as file:
        file.write(json.dumps(body, indent=1).encode())
    return result


def _chosen_state(run: StageRun, *, last: TrainingState) -> TrainingState:
    settings = run.stage.validation
    keeps_best = settings is not None and settings.keep_best
    return best_state(last, folder=Path(run.out)) if keeps_best else last


def export_adapter(run: StageRun, *, state: TrainingState, out: Path, base_name: str) -> None:
    """Write the trained weights as an adapter folder, atomically."""
    model = blank_model(run)
    model.config._name_or_path = base_name
    restore_scale(model, state.numbers)
    state.check_names(model.trainable_state())
    temporary = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state=state.weights, base=noted_base(Path(run.out)))
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    sync_folder(out.parent)
