"""What training would take, planned before it starts: memory of a worker, seconds, bytes sent and bytes on disk.

`cost_of` answers for the steps of a recipe, `stage_cost` for one stage in detail. Matrix products, bytes moved and
activations come from a step traced on the meta device (trace.py), the rest is arithmetic; docs/scale.md says which
of it was measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from memvp_data.images.preprocessing import PREPROCESSING
from memvp_train.config import LanguageModelConfig, LaunchConfig, StageConfig, VisionConfig
from memvp_train.cost_model.extraction import extraction_cost
from memvp_train.cost_model.hardware import Machine, machine_named
from memvp_train.cost_model.memory import Counts, Memory, memory_of, zero_stage
from memvp_train.cost_model.micro_batch import StepShape
from memvp_train.cost_model.traced_step import Gradients, TracedStep, build_on_meta, trace_step
from memvp_train.methods.registry import Method
from memvp_train.models.vision import feature_shape

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NUM_CHECKPOINTS = 2
"""Checkpoints of a stage that are kept."""


@dataclass(frozen=True)
class Text:
    """What the samples of a stage are like."""

    num_samples: int
    """Samples of an epoch."""
    num_tokens: int
    """Text tokens of a sample, learnt ones and padding included, on average: decides the time."""
    longest: int
    """Text tokens of the longest sample: decides the memory."""
    num_labels: int
    """Tokens of a sample that are learnt, on average."""


@dataclass(frozen=True)
class StepCost:
    """What one step of a job takes."""

    memory_bytes: int
    """Of one worker, at its worst moment."""
    seconds: float
    """From its first to its last sample, start-up left out."""
    disk_bytes: int
    """What it leaves on disk: features, or an adapter and its checkpoints."""


@dataclass(frozen=True)
class Setup:
    """What the stages of a plan share."""

    language: LanguageModelConfig
    """Only its config is read."""
    memvp: Mapping[str, Any]
    """Fields of memvp_core.MemVPConfig."""
    launch: LaunchConfig
    """Workers, ZeRO stage and precision."""
    machine: Machine
    """What each worker has."""
    num_rows: int
    """Rows of an image; every sample is taken to have an image of its own."""
    tower: VisionConfig | None = None
    """A live tower, in which adapters train; None: features are stored."""


@dataclass(frozen=True)
class StageCost:
    """One stage of tuning, by one method, on one machine."""

    method: Method
    """How the language model is shown its images."""
    memory: Memory
    """Of one worker."""
    num_trained: int
    """Trained parameters."""
    num_steps: int
    """Optimiser steps."""
    step_flops: int
    """FLOPs of one worker in a step: forward, recomputation and backward."""
    compute_seconds: float
    """Of a step, by the roofline."""
    sent_bytes: int
    """What one worker sends per step."""
    send_seconds: float
    """For that."""
    step_seconds: float
    """Of a step: computing and sending side by side where the machine can, else one after the other."""

    @property
    def seconds(self) -> float:
        """Of the stage."""
        return self.num_steps * self.step_seconds


def cost_of(
    stages: Mapping[str, StageConfig],
    *,
    language: LanguageModelConfig,
    vision: VisionConfig | None,
    memvp: Mapping[str, Any],
    launch: LaunchConfig,
    texts: Mapping[str, Text],
    num_images: int,
    machine: str = "cpu",
) -> dict[str, StepCost]:
    """Cost of a recipe's steps with `launch.num_workers` workers: each stage by its name, "extract_features" before.

    Args:
        stages: the stages by name, in order.
        language: folder or hub name; only its config is read, no weights.
        vision: the tower whose features are stored once per image, or which is live, with adapters; None: features
            are published, as for videos.
        memvp: fields of memvp_core.MemVPConfig.
        launch: workers, ZeRO stage and precision.
        texts: what the samples of each stage are like, by the stage's name.
        num_images: different images, whose features are stored.
        machine: a name in machines.MACHINES, or "cpu" for a rough guess about this computer.

    Raises:
        ConfigError: the machine is not in the table, or the preprocessing is unknown.
        ModelError: the config of the language model or of the tower is not found.
    """
    worker, costs = machine_named(machine), dict[str, StepCost]()
    setup = setup_of(language=language, vision=vision, memvp=memvp, launch=launch, machine=worker)
    if vision is not None and setup.tower is None:
        store = extraction_cost(vision, num_images=num_images, num_workers=launch.num_workers, machine=worker)
        costs["extract_features"] = StepCost(store.memory_bytes, store.seconds, store.disk_bytes)
    for name, stage in stages.items():
        cost = stage_cost(stage, setup=setup, text=texts[name])
        # A checkpoint has the weights and both averages, in fp32; the adapter has the weights.
        disk = 4 * cost.num_trained * (3 * _NUM_CHECKPOINTS + 1)
        costs[name] = StepCost(cost.memory.total, cost.seconds, disk)
    return costs


def setup_of(
    *,
    language: LanguageModelConfig,
    vision: VisionConfig | None,
    memvp: Mapping[str, Any],
    launch: LaunchConfig,
    machine: Machine,
) -> Setup:
    """What the stages of a recipe share. Without a tower the rows are as many as the memory has slots.

    Raises:
        ModelError: the tower's config is not found, or the tower does not give what is asked of it.
    """
    num_rows = memvp["num_slots"] if vision is None else feature_shape(vision).num_rows
    is_live = vision is not None and vision.adapter_dim > 0
    return Setup(language, memvp, launch, machine, num_rows, tower=vision if is_live else None)


def stage_cost(stage: StageConfig, *, setup: Setup, text: Text, method: Method = "memory") -> StageCost:
    """One stage by one method: two steps are traced, the usual length for its time, the longest for its memory."""
    launch, machine = setup.launch, setup.machine
    workers = max(1, launch.num_workers)
    rows = min(stage.micro_batch_size, -(-stage.global_batch_size // workers))
    num_micro_batches = -(-stage.global_batch_size // (rows * workers))
    accumulates = num_micro_batches > 1
    usual = StepShape(
        num_sequences=rows,
        num_tokens=text.num_tokens,
        num_labels=text.num_labels,
        num_rows=setup.num_rows,
        width=setup.memvp["vision_hidden_size"],
        image_side=None if setup.tower is None else PREPROCESSING[setup.tower.preprocessing].size,
    )
    gradients: Gradients = "sent" if zero_stage(launch) >= 2 else "accumulated" if accumulates else "new"
    step, peak = (
        _traced(stage, replace(usual, num_tokens=length), setup=setup, method=method, gradients=gradients)
        for length in (text.num_tokens, text.longest)
    )
    memory = memory_of(
        step.counts,
        traced_peak=peak.trace.peak_bytes,
        images=peak.image_bytes,
        launch=launch,
        machine=machine,
        accumulates=accumulates,
    )
    compute = num_micro_batches * step.trace.seconds(machine) + _update_seconds(step.counts, setup=setup)
    sent = sent_bytes(step.counts, launch=launch, num_micro_batches=num_micro_batches)
    send = sent / (_link(machine, num_workers=workers) * machine.achieved_bandwidth)
    return StageCost(
        method=method,
        memory=memory,
        num_trained=step.counts.num_trained,
        num_steps=stage.steps_for(num_samples=text.num_samples),
        step_flops=num_micro_batches * step.trace.flops,
        compute_seconds=compute,
        sent_bytes=sent,
        send_seconds=send,
        step_seconds=max(compute, send) if machine.overlaps else compute + send,
    )


def _traced(stage: StageConfig, shape: StepShape, *, setup: Setup, method: Method, gradients: Gradients) -> TracedStep:
    model = build_on_meta(
        method,
        language=setup.language,
        memvp=setup.memvp,
        lora=stage.lora,
        vision=setup.tower,
        dtype=_DTYPES[setup.launch.precision],
        recomputes=stage.gradient_checkpointing,
    )
    return trace_step(model, shape, machine=setup.machine, gradients=gradients)


def _update_seconds(counts: Counts, *, setup: Setup) -> float:
    """AdamW reads gradient, weight and both averages and writes the last three, in fp32; then it rounds the weight."""
    splits = max(1, setup.launch.num_workers) if setup.launch.zero_stage >= 1 else 1
    return counts.num_trained / splits * 30 / (setup.machine.memory_bandwidth * setup.machine.achieved_bandwidth)


def sent_bytes(counts: Counts, *, launch: LaunchConfig, num_micro_batches: int) -> int:
    """Bytes that one worker sends per optimiser step.

    Gradients are summed and, from ZeRO-1 on, every worker passes on the weights that it updated: together what one
    all-reduce sends, 2 (N - 1) / N of their size. ZeRO-3 passes nothing on; instead it gathers all weights, frozen ones
    too, in the forward and again in the backward of every micro-batch.
    """
    workers = launch.num_workers
    if workers < 2:
        return 0
    itemsize = 4 if launch.precision == "fp32" else 2
    numbers = 2 * counts.num_trained
    if launch.zero_stage == 3:
        numbers = counts.num_trained + 2 * num_micro_batches * (counts.num_frozen + counts.num_trained)
    return itemsize * numbers * (workers - 1) // workers


def _link(machine: Machine, *, num_workers: int) -> float:
    """Bytes per second. A ring is as fast as its slowest link."""
    within = machine.link_bandwidth
    return within if num_workers <= machine.per_node else min(within, machine.network_bandwidth)
