"""The plan of a recipe: every stage by every tuning method, and the features that are stored before."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memvp_train.config import check_batch_split
from memvp_train.cost_model.extraction import ExtractionCost, extraction_cost
from memvp_train.cost_model.hardware import CPU, Machine, machine_named
from memvp_train.cost_model.stage import StageCost, Text, setup_of, stage_cost
from memvp_train.methods.registry import METHODS
from pipelines.config.errors import RecipeError
from pipelines.data.sizes import sizes_of
from pipelines.jobs.command_line import read_settings, tuning_kind


@dataclass(frozen=True)
class PlanRequest:
    """What is asked beside the recipe."""

    machine: str
    """name in memvp_train's table of machines"""
    num_workers: int | None = None
    """workers; None: the recipe's"""
    num_images: int | None = None
    """different images; None: as published"""
    tokens: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """by stage: mean, longest and learnt tokens of a sample, as far as known"""


@dataclass(frozen=True)
class Plan:
    """The numbers of a recipe on a machine."""

    name: str
    """of the recipe"""
    machine_name: str
    """in memvp_train's table of machines"""
    machine: Machine
    """its figures"""
    num_workers: int
    """accelerators"""
    zero_stage: int
    """of DeepSpeed"""
    texts: Mapping[str, Text]
    """what each stage's samples are taken to be like"""
    num_images: int
    """different images"""
    features: ExtractionCost | None
    """None where no features are stored: a live tower, or features as published"""
    stages: Mapping[str, tuple[StageCost, ...]]
    """by stage, one for each method"""

    def as_json(self) -> dict[str, Any]:
        """Plain data, times in seconds and sizes in bytes."""
        plain = dataclasses.asdict(self)
        for name, costs in self.stages.items():
            for one, values in zip(costs, plain["stages"][name], strict=True):
                values |= {"seconds": one.seconds, "memory_total": one.memory.total}
        return plain


def read_recipe(arguments: Sequence[str]) -> Any:
    """The settings of a job of either kind that tunes; a recipe with one stage is finetune.py's.

    Raises:
        RecipeError: one sentence that names the setting or file and what would work.
    """
    return read_settings(tuning_kind(arguments), arguments)


def plan_of(config: Any, wanted: PlanRequest) -> Plan:
    """Cost of a recipe, JobConfig or FinetuneConfig.

    Raises:
        RecipeError: workers do not divide a batch, a stage is unknown, or the machine is not in the table.
        ModelError: the config of a model is not found.
    """
    machine = machine_named(wanted.machine)
    workers = config.launch.num_workers if wanted.num_workers is None else wanted.num_workers
    launch = dataclasses.replace(config.launch, num_workers=workers, use_gpu=wanted.machine != CPU)
    for stage in config.stages.values():
        check_batch_split(stage, num_workers=workers)
    unknown = set(wanted.tokens) - set(config.stages)
    if unknown:
        raise RecipeError(f"--tokens names {min(unknown)!r}; the stages of this recipe are {', '.join(config.stages)}")
    memvp, sizes = config.memvp.to_dict(), sizes_of(config, tokens=wanted.tokens)
    texts, num_images = sizes.texts, sizes.num_images if wanted.num_images is None else wanted.num_images
    setup = setup_of(language=config.language, vision=config.vision, memvp=memvp, launch=launch, machine=machine)
    features = None
    if config.vision is not None and setup.tower is None:
        features = extraction_cost(config.vision, num_images=num_images, num_workers=workers, machine=machine)
    stages = {
        name: tuple(stage_cost(stage, setup=setup, text=texts[name], method=method) for method in METHODS)
        for name, stage in config.stages.items()
    }
    return Plan(
        name=config.name,
        machine_name=wanted.machine,
        machine=machine,
        num_workers=workers,
        zero_stage=launch.zero_stage,
        texts=texts,
        num_images=num_images,
        features=features,
        stages=stages,
    )
