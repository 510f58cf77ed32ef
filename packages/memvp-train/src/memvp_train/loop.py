"""The training loop: which batches, in which order, what is written down and when. It knows no DeepSpeed and no Ray.

A run is a pure function of its settings: sample order and dropout depend on (seed, step, rank) alone, so a run that
was stopped anywhere and continued from a checkpoint ends with the weights of one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from memvp_data.loader import Batch
from memvp_train.checkpoint import CheckpointStore
from memvp_train.config import StageConfig
from memvp_train.local_engine import Engine
from memvp_train.metrics import MetricsLog, Row
from memvp_train.optim import set_learning_rates
from memvp_train.schedules import Schedule
from memvp_train.step import micro_batch_loss


class TrainingError(ValueError):
    """Training cannot go on, and starting it again would not help."""


class Batches(Protocol):
    """This rank's micro-batches of a global step; the same samples for any world size."""

    def at(self, step: int, /) -> list[Batch]: ...


@dataclass
class _Pending:
    """What this rank saw in the steps that are not written down yet."""

    losses: list[torch.Tensor]
    tokens: list[int]
    rows: list[Row]


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
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Run the schedule's optimiser steps from `start_step` on (0 is the first) and commit a checkpoint of the last one.

    `after_step(done)` is called on every rank with the number of steps done. Raises `TrainingError` when a loss or
    a gradient is not finite, before that step can reach a checkpoint.
    """
    log = MetricsLog(metrics_path, step=start_step) if engine.rank == 0 else None
    pending = _Pending([], [], [])
    engine.model.train()
    for step in range(start_step, schedule.num_steps):
        _train_step(engine, batches.at(step), stage=stage, step=step, schedule=schedule, pending=pending)
        done = step + 1
        commits = done % stage.checkpoint_every == 0 or done == schedule.num_steps
        if commits or done % stage.log_every == 0:
            checkpoints.check()
            commits = commits or checkpoints.wanted()
            _write_down(engine, pending, log=log)
        if commits:
            _commit(engine, step=done, log=log, checkpoints=checkpoints, settings=settings)
        after_step(done)
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
    loss_sum = torch.zeros((), device=engine.device)
    for number, batch in enumerate(micro_batches, start=1):
        loss = micro_batch_loss(engine.model, batch, device=engine.device, dtype=engine.dtype)
        engine.backward(loss, is_last=number == len(micro_batches))
        loss_sum += loss.detach()
    norm = engine.step()
    pending.losses.append(loss_sum)
    pending.tokens.append(sum(int(batch.attention_mask.sum()) for batch in micro_batches))
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
    sums = engine.sum_over_ranks(
        torch.stack([torch.stack(pending.losses).double(), torch.tensor(pending.tokens).double().to(engine.device)])
    ).tolist()
    rows = [_row(row, loss=loss, tokens=tokens) for row, loss, tokens in zip(pending.rows, *sums, strict=True)]
    for row in rows:
        _check_finite(row)
    if log is not None:
        log.write(rows)
    for column in (pending.losses, pending.tokens, pending.rows):
        column.clear()


def _row(row: Row, *, loss: float, tokens: float) -> Row:
    return {
        "step": row["step"],
        "loss": loss,
        "learning_rate": row["learning_rate"],
        "grad_norm": row["grad_norm"],
        "tokens_per_second": round(tokens / row["seconds"], 1),
        "seconds": round(row["seconds"], 5),
        "memory_bytes": row["memory_bytes"],
    }


def _check_finite(row: Row) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(row[name]):
            raise TrainingError(
                f"{name} is {row[name]} at step {int(row['step'])}; the last checkpoint is sound: "
                "try a lower learning rate, or max_grad_norm if it is 0"
            )


def _commit(
    engine: Engine, *, step: int, log: MetricsLog | None, checkpoints: CheckpointStore, settings: dict[str, Any]
) -> None:
    if log is not None:
        log.sync()
    state = engine.gather(step=step)
    checkpoints.commit(replace(state, settings=settings))
