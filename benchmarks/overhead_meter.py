"""What runs inside a training worker to be measured: the whole stack, and between its steps a bare torch loop.

Every few steps of the real loop the same micro-batches go through the same model in plain torch. So both are timed in
one process within seconds of each other, and whatever else the machine does slows both.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from memvp_train.optim.optimizer import build_optimizer, parameter_groups
from memvp_train.training import worker
from memvp_train.training.loss import micro_batch_loss

BLOCK = 10
"""Steps of the loop between two rounds of bare steps, and bare steps of a round."""
FILE = "overhead.json"


class BareLoop:
    """Forward, backward, clipping and AdamW, and nothing else."""

    def __init__(self, work: Any, *, device: torch.device) -> None:
        self._model = worker._model(work, device=device).to(device).train()
        self._device, self._dtype = device, next(self._model.parameters()).dtype
        trainable, stage = self._model.trainable_state(), work.plan.run.stage
        self._trained, self._limit = list(trainable.values()), stage.max_grad_norm
        self._optimizer = build_optimizer(parameter_groups(trainable, stage=stage), stage=stage)

    def step(self, micro_batches: list[Any]) -> None:
        """One optimiser step."""
        for batch in micro_batches:
            micro_batch_loss(self._model, batch, device=self._device, dtype=self._dtype).backward()
        torch.nn.utils.clip_grad_norm_(self._trained, self._limit)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class Meter:
    """Called after every step of the loop; keeps wall and processor seconds of both kinds of step."""

    def __init__(self, bare: BareLoop | None) -> None:
        """Without a bare loop only the steps themselves are timed."""
        self.batches: list[list[Any]] = []
        self.waiting: list[float] = []
        self._bare = bare
        self._full: list[tuple[float, float]] = []
        self._plain: list[tuple[float, float]] = []
        self._since = _now()

    def __call__(self, done: int) -> None:
        self._full.append(_passed(self._since))
        if self._bare is not None and done % BLOCK == 0:
            for micro_batches in self.batches[-BLOCK:]:
                start = _now()
                self._bare.step(micro_batches)
                self._plain.append(_passed(start))
            self.batches.clear()
        self._since = _now()

    def content(self) -> dict[str, Any]:
        """Plain numbers: seconds of every step, (wall, processor)."""
        return {"full": self._full, "bare": self._plain, "waiting": self.waiting}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _passed(start: tuple[float, float]) -> tuple[float, float]:
    end = _now()
    return end[0] - start[0], end[1] - start[1]


def measured_worker(plan: dict[str, Any], *, device: torch.device, checkpoints: Any, beat: Any) -> None:
    """memvp_train.training.worker.train_worker with a meter in it."""
    work = worker._work(worker.WorkerPlan.from_plain(plan), checkpoints=checkpoints)
    meter = Meter(BareLoop(work, device=device) if work.plan.launch.num_workers == 1 else None)

    class TimedBatches(worker.PrefetchedBatches):
        def at(self, step: int) -> list[Any]:
            start = time.perf_counter()
            made = super().at(step)
            meter.waiting.append(time.perf_counter() - start)
            meter.batches.append(made)
            return made

    engine = worker._joint_engine(work, device=device)
    with patch.object(worker, "PrefetchedBatches", TimedBatches):
        worker._train(work, engine=engine, beat=beat, after_step=meter)
    if engine.rank == 0:
        Path(work.plan.run.out, FILE).write_text(json.dumps(meter.content()))


def summary(content: dict[str, Any], *, checkpoint_every: int, warm_up: int) -> dict[str, float]:
    """Ratios of a run of the meter, by processor time and by the wall, after `warm_up` steps."""
    commits = {step for step in range(len(content["full"])) if (step + 1) % checkpoint_every == 0}
    usual = [step for step in range(warm_up, len(content["full"])) if step not in commits]
    found: dict[str, float] = {}
    for clock, name in enumerate(("wall", "processor")):
        full = [content["full"][step][clock] for step in usual]
        found[f"{name}_seconds"] = statistics.median(full)
        stalls = [content["full"][step][clock] - statistics.median(full) for step in sorted(commits) if step >= warm_up]
        if stalls:
            found[f"checkpoint_stall_steps_{name}"] = statistics.median(stalls) / statistics.median(full)
        if content["bare"]:
            bare = [content["bare"][step][clock] for step in usual]
            found[f"bare_{name}_seconds"] = statistics.median(bare)
            found[f"overhead_{name}"] = sum(full) / sum(bare)
            found[f"overhead_{name}_median"] = statistics.median(a / b for a, b in zip(full, bare, strict=True))
    wall = sum(content["full"][step][0] for step in usual)
    found["waiting_share"] = sum(content["waiting"][step] for step in usual) / wall
    return found
