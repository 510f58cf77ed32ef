"""The training loop: which batches, in which order, what is written down and when. It knows no DeepSpeed and no Ray.

A run is a pure function of its settings: sample order and dropout depend on (seed, step, rank) alone, so a run that
was stopped anywhere and continued from a checkpoint ends with the weights of one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import torch

from memvp_data.dataloader.batch import Batch
from memvp_data.dataloader.prefetch import Batches
from memvp_train.checkpoints.state import CheckpointStore, TrainingState
from memvp_train.config import StageConfig
from memvp_train.engines.local import Engine
from memvp_train.optim.optimizer import set_learning_rates
from memvp_train.optim.schedules import Schedule
from memvp_train.training.failures import SampleIds, named, suspects
from memvp_train.training.loss import micro_batch_loss
from memvp_train.training.metrics_log import MetricsLog, MetricsRow
from memvp_train.training.start import StartNumbers, cause_in_memory
from memvp_train.training.validation import Validation


class TrainingError(ValueError):
    """Training cannot go on, and starting it again would not help."""


class BatchError(RuntimeError):
    """A micro-batch failed for a reason that may be gone when training is started again."""


@dataclass
class _Pending:
    """What this rank saw in the steps that are not written down yet."""

    losses: list[torch.Tensor] = field(default_factory=list)
    """One of (M,) per step: those of its M micro-batches."""
    samples: list[list[SampleIds]] = field(default_factory=list)
    """The ids of each micro-batch of each step."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each step."""
    rows: list[MetricsRow] = field(default_factory=list)
    """What is known of each step without asking other ranks."""

    def clear(self) -> None:
        for column in (self.losses, self.samples, self.tokens, self.rows):
            column.clear()


def train_stage(
    engine: Engine,
    batches: Batches,
    *,
    stage: StageConfig,
    schedule: Schedule,
    start_step: int,
    checkpoints: CheckpointStore,
    metrics_path: Path,
    settings: dict[str, Any],
    start: StartNumbers = MappingProxyType({}),
    validation: Validation | None = None,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Run the schedule's optimiser steps from `start_step` on (0 is the first) and commit a checkpoint of the last one.

    With `validation` the last step is the one where its patience ends, and every new best step is committed too.
    `start` is what was found before the first step. `after_step(done)` is called on every rank with the number of
    steps done. Raises `TrainingError` when a loss or a gradient is not finite, before that step can reach a checkpoint.
    """
    log = MetricsLog(metrics_path, step=start_step) if engine.rank == 0 else None
    if validation is not None and engine.rank == 0:
        validation.forget_after(start_step)
    pending = _Pending()
    engine.model.train()
    for step in range(start_step, schedule.num_steps):
        _train_step(engine, batches.at(step), stage=stage, step=step, schedule=schedule, pending=pending)
        if step == 0:
            pending.rows[-1] |= start
        done = step + 1
        is_last = done == schedule.num_steps
        is_best = False
        if validation is not None and validation.is_due(done, is_last=is_last):
            pending.rows[-1] |= validation.run(engine, step=done)
            is_best, is_last = validation.is_best(done), is_last or validation.ends
        commits = is_last or is_best or done % stage.checkpoint_every == 0
        # What was found before the first step is not held back.
        if commits or done % stage.log_every == 0 or (start and step == 0):
            checkpoints.check()
            commits = commits or checkpoints.wanted()
            _write_down(engine, pending, log=log)
        if commits:
            if log is not None:
                log.sync()
            state = _state(engine, step=done, settings=settings, start=start, validation=validation)
            if validation is not None and is_best and engine.rank == 0:
                validation.keep(state)
            checkpoints.commit(state)
        after_step(done)
        if is_last:
            break
    if log is not None:
        log.close()


def _train_step(
    engine: Engine,
    micro_batches: list[Batch],
    *,
    stage: StageConfig,
    step: int,
    schedule: Schedule,
    pending: _Pending,
) -> None:
    start = time.perf_counter()
    torch.manual_seed(_step_seed(stage.seed, step=step, rank=engine.rank))
    learning_rate = set_learning_rates(engine.groups, factor=schedule.factor(step))
    losses = []
    for number, batch in enumerate(micro_batches, start=1):
        try:
            loss = micro_batch_loss(engine.model, batch, device=engine.device, dtype=engine.dtype)
            engine.backward(loss, is_last=number == len(micro_batches))
        except Exception as error:
            kind = TrainingError if isinstance(error, ValueError) else BatchError
            raise kind(f"step {step + 1} failed on samples {named(batch.sample_ids)}: {error}") from error
        losses.append(loss.detach())
    norm = engine.step()
    pending.losses.append(torch.stack(losses))
    pending.samples.append([batch.sample_ids for batch in micro_batches])
    pending.tokens.append(sum(batch.num_tokens for batch in micro_batches))
    seconds = time.perf_counter() - start
    row = {"step": step + 1, "learning_rate": learning_rate, "grad_norm": norm, "seconds": seconds}
    pending.rows.append({**row, "memory_bytes": _memory_bytes(engine.device)})


def _memory_bytes(device: torch.device) -> int:
    """GPU memory at its highest so far, or the resident memory of this process now; the curve shows rank 0's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def _step_seed(seed: int, *, step: int, rank: int) -> int:
    """Seed of dropout in one step on one rank. Far apart for neighbours, so that ranks do not draw the same masks."""
    return ((seed * 1_000_003 + step) * 1_000_003 + rank) % (1 << 63)


def _write_down(engine: Engine, pending: _Pending, *, log: MetricsLog | None) -> None:
    """Sum losses and token counts over ranks, once for many steps, check them and append their rows."""
    if not pending.rows:
        return
    losses = torch.stack([losses.double().sum() for losses in pending.losses])
    sums = engine.sum_over_ranks(torch.stack([losses, torch.tensor(pending.tokens).to(losses)])).tolist()
    rows = [_row(row, loss=loss, tokens=tokens) for row, loss, tokens in zip(pending.rows, *sums, strict=True)]
    for number, row in enumerate(rows):
        _check_finite(engine, row, pending=pending, number=number)
    if log is not None:
        log.write(rows)
    pending.clear()


def _row(row: MetricsRow, *, loss: float, tokens: float) -> MetricsRow:
    # What comes last is of the evaluation, where this step had one.
    return {
        "step": row["step"],
        "loss": loss,
        "learning_rate": row["learning_rate"],
        "grad_norm": row["grad_norm"],
        "tokens_per_second": round(tokens / row["seconds"], 1),
        "seconds": round(row["seconds"], 5),
        **{name: value for name, value in row.items() if name not in ("learning_rate", "grad_norm", "seconds")},
    }


def _check_finite(engine: Engine, row: MetricsRow, *, pending: _Pending, number: int) -> None:
    for name in ("loss", "grad_norm", "validation_loss"):
        if not math.isfinite(row.get(name, 0)):
            samples = suspects(engine, losses=pending.losses[number], samples=pending.samples[number])
            where = "" if name == "validation_loss" else f", with samples {samples}"
            remedy = "the last checkpoint is sound: try a lower learning rate, or max_grad_norm if it is 0"
            remedy = cause_in_memory(row) or remedy
            raise TrainingError(f"{name} is {row[name]} at step {int(row['step'])}{where}; {remedy}")


def _state(
    engine: Engine, *, step: int, settings: dict[str, Any], start: StartNumbers, validation: Validation | None
) -> TrainingState:
    """All that training carries on, for a checkpoint; every rank has to call it."""
    state = engine.gather(step=step)
    numbers = {**state.numbers, **start, **({} if validation is None else validation.numbers())}
    return replace(state, settings=settings, numbers=numbers)
