"""What one training process does: build model, engine and batches of a plan, then run the loop.

`train_worker` runs in every worker of a process group, `train_here` alone in this process.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memvp_core import MemVPModel
from memvp_data.dataloader.prefetch import PrefetchedBatches
from memvp_train.checkpoints.state import CheckpointError, CheckpointStore, TrainingState, load_newest
from memvp_train.engines.data_parallel import DataParallelEngine
from memvp_train.engines.local import DTYPES, Engine, LocalEngine
from memvp_train.launch.cores import all_cores
from memvp_train.launch.heartbeat import Beat, BeatingBatches
from memvp_train.methods.memvp import build_memvp_model
from memvp_train.models.language import build_language_model
from memvp_train.optim.schedules import Schedule
from memvp_train.training.base_model import note_base
from memvp_train.training.batches import training_batches, validation_batches
from memvp_train.training.loop import train_stage
from memvp_train.training.metrics_log import METRICS_FILE
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.start import StartNumbers, kept_numbers, look_before_training, restore_scale
from memvp_train.training.validation import Validation


def _no_beat(step: int, samples: Sequence[str]) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class _Work:
    """What this process has to do."""

    plan: WorkerPlan
    checkpoints: CheckpointStore
    state: TrainingState | None
    """Where to go on; none at the start."""

    @property
    def start_step(self) -> int:
        return 0 if self.state is None else self.state.step


def train_worker(
    plan: dict[str, Any], *, device: torch.device, checkpoints: CheckpointStore, beat: Beat = _no_beat
) -> None:
    """Train on this rank of an initialised process group, from the newest sound checkpoint to the last step.

    `plan` is a `WorkerPlan` as plain values. `beat` hears of every step as it begins.
    """
    work = _work(WorkerPlan.from_plain(plan), checkpoints=checkpoints)
    engine = _joint_engine(work, device=device)
    step = float(work.start_step)
    steps = engine.sum_over_ranks(torch.tensor([step, step**2], device=device))
    if steps[1] * engine.world_size != steps[0] ** 2:
        raise CheckpointError(
            f"workers read different checkpoints of {work.plan.run.out}; its storage must be shared by all nodes"
        )
    _train(work, engine=engine, beat=beat)


def train_here(
    plan: WorkerPlan, *, checkpoints: CheckpointStore, after_step: Callable[[int], None] = lambda done: None
) -> None:
    """Train in this process with plain torch, on all its cores. `after_step` gets the number of steps done."""
    work = _work(plan, checkpoints=checkpoints)
    engine = _plain_engine(LocalEngine, work, device=torch.device("cuda" if plan.launch.use_gpu else "cpu"))
    with all_cores():
        _train(work, engine=engine, after_step=after_step)


def _work(plan: WorkerPlan, *, checkpoints: CheckpointStore) -> _Work:
    state = load_newest(checkpoints.candidates(), settings=plan.settings, on_damage=warnings.warn)
    return _Work(plan, checkpoints, state)


def _joint_engine(work: _Work, *, device: torch.device) -> Engine:
    """One rank of several: plain torch where nothing is split, else DeepSpeed, whose import takes seconds."""
    if not work.plan.launch.splits:
        return _plain_engine(DataParallelEngine, work, device=device)
    from memvp_train.engines.deepspeed import DeepSpeedEngine

    model = _model(work, device=device)
    trainable = model.trainable_state()
    return DeepSpeedEngine(
        model, trainable=trainable, stage=work.plan.run.stage, launch=work.plan.launch, device=device, state=work.state
    )


def _plain_engine(kind: type[LocalEngine], work: _Work, *, device: torch.device) -> LocalEngine:
    model = _model(work, device=device)
    trainable, precision = model.trainable_state(), work.plan.launch.precision
    return kind(
        model, trainable=trainable, stage=work.plan.run.stage, precision=precision, device=device, state=work.state
    )


def _model(work: _Work, *, device: torch.device) -> MemVPModel:
    run = work.plan.run
    # Every rank draws the same initial weights.
    torch.manual_seed(run.stage.seed)
    language_model = build_language_model(
        run.language,
        dtype=DTYPES[work.plan.launch.precision],
        device_in_4bit=device if run.language.load_in_4bit else None,
    )
    model = build_memvp_model(
        language_model, memvp=run.memvp, lora=run.stage.lora, init_adapter=run.init_adapter, vision=run.vision
    )
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        note_base(model, out=Path(run.out))
    if work.state is not None:
        restore_scale(model, work.state.numbers)
    if run.stage.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if run.stage.compile:
        # In place: a wrapper would rename the parameters.
        model.language_model.compile(dynamic=True)
    return model


def _train(
    work: _Work,
    *,
    engine: Engine,
    beat: Beat = _no_beat,
    after_step: Callable[[int], None] = lambda done: None,
) -> None:
    plan = work.plan
    stage = plan.run.stage
    batches = training_batches(plan, rank=engine.rank, world_size=engine.world_size)
    start = _start(work, engine=engine, first=BeatingBatches(batches, beat=beat))
    ahead = PrefetchedBatches(batches, num_steps=plan.num_steps, num_workers=plan.launch.loader_processes)
    beating = BeatingBatches(ahead, beat=beat)
    try:
        validation = _validation(work, engine=engine, watched=beating.watched)
        train_stage(
            engine,
            beating,
            stage=stage,
            schedule=Schedule(plan.num_steps, plan.num_warmup_steps, stage.schedule),
            start_step=work.start_step,
            checkpoints=work.checkpoints,
            metrics_path=Path(plan.run.out) / METRICS_FILE,
            settings=plan.settings,
            start=start,
            validation=validation,
            after_step=after_step,
        )
    finally:
        ahead.close()
        logging.getLogger(__name__).info("rank %d: %s", engine.rank, ahead.throughput)


def _start(work: _Work, *, engine: Engine, first: BeatingBatches) -> StartNumbers:
    """What is found before the first step, or was."""
    if work.state is not None:
        return kept_numbers(work.state.numbers)
    run, micro_batches = work.plan.run, first.at(0)
    finds_scale = run.memvp.get("retrieval_scale") == "auto"
    watched = first.watched(micro_batches)
    return look_before_training(engine, watched, is_new=run.init_adapter is None, finds_scale=finds_scale)


def _validation(work: _Work, *, engine: Engine, watched: Callable[[Any], Any]) -> Validation | None:
    settings = work.plan.run.stage.validation
    if settings is None:
        return None
    batches = validation_batches(work.plan, rank=engine.rank, world_size=engine.world_size)
    numbers = {} if work.state is None else work.state.numbers
    return Validation(watched(batches), config=settings, folder=Path(work.plan.run.out), numbers=numbers)
