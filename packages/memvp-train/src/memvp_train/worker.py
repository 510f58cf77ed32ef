"""What one training process does: build model, engine and batches from plain settings, then run the loop.

`train_worker` runs in every worker of a process group with DeepSpeed, `train_here` alone in this process without it.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from memvp_core import MemVPModel
from memvp_data.prefetch import PrefetchedBatches
from memvp_train.batches import training_batches
from memvp_train.checkpoint import CheckpointError, CheckpointStore, TrainingState, load_newest
from memvp_train.config import LaunchConfig, StageConfig, StageRun, from_plain, run_from_dict
from memvp_train.data_parallel import DataParallelEngine
from memvp_train.heartbeat import Beat, BeatingBatches
from memvp_train.local_engine import DTYPES, Engine, LocalEngine
from memvp_train.loop import train_stage
from memvp_train.models import build_language_model, build_memvp_model
from memvp_train.schedules import Schedule


def _no_beat(step: int, samples: Sequence[str]) -> None:
    """Nobody watches."""


def train_worker(
    config: dict[str, Any], *, device: torch.device, checkpoints: CheckpointStore, beat: Beat = _no_beat
) -> None:
    """Train on this rank of an initialised process group, from the newest sound checkpoint to the last step.

    `beat` hears of every step as it begins.
    """
    run, launch, state, model = _prepare(config, checkpoints=checkpoints)
    engine = _joint_engine(model, stage=run.stage, launch=launch, device=device, state=state)
    step = 0 if state is None else state.step
    steps = engine.sum_over_ranks(torch.tensor([float(step), float(step) ** 2], device=device))
    if steps[1] * engine.world_size != steps[0] ** 2:
        raise CheckpointError(
            f"workers read different checkpoints of {run.out}; its storage must be shared by all nodes"
        )
    _run(config, run=run, launch=launch, engine=engine, start_step=step, checkpoints=checkpoints, beat=beat)


def _joint_engine(
    model: MemVPModel, *, stage: StageConfig, launch: LaunchConfig, device: torch.device, state: TrainingState | None
) -> Engine:
    """One rank of several: plain torch where nothing is split, else DeepSpeed, whose import takes seconds."""
    trainable = model.trainable_state()
    if launch.zero_stage == 0:
        precision = launch.precision
        return DataParallelEngine(
            model, trainable=trainable, stage=stage, precision=precision, device=device, state=state
        )
    from memvp_train.engine import DeepSpeedEngine

    return DeepSpeedEngine(model, trainable=trainable, stage=stage, launch=launch, device=device, state=state)


def train_here(
    config: dict[str, Any], *, checkpoints: CheckpointStore, after_step: Callable[[int], None] = lambda done: None
) -> None:
    """Train in this process with plain torch. `after_step` gets the number of steps done."""
    run, launch, state, model = _prepare(config, checkpoints=checkpoints)
    engine = LocalEngine(
        model,
        trainable=model.trainable_state(),
        stage=run.stage,
        precision=launch.precision,
        device="cuda" if launch.use_gpu else "cpu",
        state=state,
    )
    step = 0 if state is None else state.step
    _run(
        config,
        run=run,
        launch=launch,
        engine=engine,
        start_step=step,
        checkpoints=checkpoints,
        after_step=after_step,
    )


def _prepare(
    config: dict[str, Any], *, checkpoints: CheckpointStore
) -> tuple[StageRun, LaunchConfig, TrainingState | None, MemVPModel]:
    run, launch = run_from_dict(config["run"]), from_plain(LaunchConfig, config["launch"])
    state = load_newest(checkpoints.candidates(), settings=config["settings"], on_damage=warnings.warn)
    # Every rank draws the same initial weights.
    torch.manual_seed(run.stage.seed)
    language_model = build_language_model(run.language, dtype=DTYPES[launch.precision])
    model = build_memvp_model(
        language_model, memvp=run.memvp, lora=run.stage.lora, init_adapter=run.init_adapter, vision=run.vision
    )
    if run.stage.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return run, launch, state, model


def _run(
    config: dict[str, Any],
    *,
    run: StageRun,
    launch: LaunchConfig,
    engine: Engine,
    start_step: int,
    checkpoints: CheckpointStore,
    beat: Beat = _no_beat,
    after_step: Callable[[int], None] = lambda done: None,
) -> None:
    batches = training_batches(run, launch, config, rank=engine.rank, world_size=engine.world_size)
    ahead = PrefetchedBatches(batches, num_steps=config["num_steps"], num_workers=launch.loader_processes)
    try:
        train_stage(
            engine,
            BeatingBatches(ahead, beat=beat),
            stage=run.stage,
            schedule=Schedule(config["num_steps"], config["warmup"], run.stage.schedule),
            start_step=start_step,
            checkpoints=checkpoints,
            metrics_path=Path(run.out) / "metrics.jsonl",
            settings=config["settings"],
            after_step=after_step,
        )
    finally:
        ahead.close()
        logging.getLogger(__name__).info("rank %d: %s", engine.rank, ahead.throughput)
