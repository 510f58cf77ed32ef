"""`--dry-run`: what a submission would run and what it would re-use, without touching anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pipelines.data.sizes import sizes_of
from pipelines.jobs import preflight
from pipelines.jobs.kinds import JobKind
from pipelines.jobs.options import Options
from pipelines.tracking.moved import check_not_moved
from pipelines.workflow.step import FinishedStep, Step, find_finished, step_folder, step_key

if TYPE_CHECKING:
    from memvp_train.cost_model.stage import StepCost


@dataclass(frozen=True)
class Planned:
    """What would become of one step."""

    step: str
    """its name"""
    action: str
    """re-use, run or refuse"""
    reason: str
    """why"""
    found: FinishedStep | None = None
    """what is re-used"""


def describe_job(kind: JobKind, config: Any, *, options: Options, storage: Path, console: Console) -> list[Planned]:
    """Print the plan and return it. Raises a ValueError with one sentence for whatever would stop the job at once."""
    steps, kept = options.wanted(kind.steps(config))
    preflight.check_sources(config, steps)
    preflight.check_gate(config)
    preflight.check_adapters(config)
    check_not_moved(preflight.tracking_address(config, storage=storage), storage=storage)
    folder = storage / config.name
    machine = "h100-80gb" if config.launch.use_gpu else "cpu"
    plan = list(_planned(steps, config=config, folder=folder, kept=kept))
    if all(one.found for one in plan):
        # Nothing is left that a model could spoil or that would cost anything; building one takes seconds.
        counts, costs = _recorded_counts(config, plan), {}
    else:
        counts, costs = preflight.check_models(config), _costs(config, machine=machine)
    table = Table(title=f"{config.name}: what would happen below {folder}", title_justify="left")
    for title in ("step", "action", "why"):
        table.add_column(title)
    for title in ("memory per worker", "time", "disk"):
        table.add_column(title, justify="right")
    for one in plan:
        table.add_row(one.step, one.action, one.reason, *_cost_cells(costs.get(one.step), action=one.action))
    console.print(table)
    if costs:
        where = f"{config.launch.num_workers} x {machine}" if config.launch.num_workers else f"one process on {machine}"
        console.print(f"costs are arithmetic for {where}; plan.py takes other machines", soft_wrap=True)
    for name, count in counts.items():
        console.print(f"trainable parameters, {name}: {count:,}", soft_wrap=True)
    return plan


def _recorded_counts(config: Any, plan: list[Planned]) -> dict[str, int]:
    """Trainable parameters of each stage, as they were counted when it was tuned."""
    records = {one.step: one.found.record for one in plan if one.found is not None}
    return {name: records[name].summary["trainable_parameters"] for name in config.stages if name in records}


def _costs(config: Any, *, machine: str) -> dict[str, StepCost]:
    """By step; none for a job that trains nothing."""
    if not config.stages:
        return {}
    from memvp_train.cost_model.stage import cost_of

    sizes = sizes_of(config)
    return cost_of(
        config.stages,
        language=config.language,
        vision=config.vision,
        memvp=config.memvp.to_dict(),
        launch=config.launch,
        texts=sizes.texts,
        num_images=sizes.num_images,
        machine=machine,
    )


def _cost_cells(cost: StepCost | None, *, action: str) -> tuple[str, str, str]:
    if cost is None or action == "re-use":
        return "-", "-", "-"
    return f"{cost.memory_bytes / 1e9:.2f} GB", _duration(cost.seconds), f"{cost.disk_bytes / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _planned(steps: tuple[Step, ...], *, config: Any, folder: Path, kept: frozenset[str]) -> Iterator[Planned]:
    finished: dict[str, FinishedStep] = {}
    for step in steps:
        missing = [name for name in step.needs.values() if name not in finished]
        found, reason = (None, f"after {', '.join(missing)}") if missing else _found(step, config, folder, finished)
        if found is not None:
            finished[step.name] = found
            yield Planned(step.name, "re-use", f"made in {found.record.seconds:.1f} s", found)
        elif step.name in kept:
            yield Planned(step.name, "refuse", f"{reason}, and --from leaves it out")
        else:
            yield Planned(step.name, "run", reason)


def _found(step: Step, config: Any, folder: Path, finished: dict[str, FinishedStep]) -> tuple[FinishedStep | None, str]:
    key = step_key(step, config=config, inputs=step.inputs(finished))
    found, fault = find_finished(step, run_folder=folder, key=key, depth=config.verify_outputs)
    if found is not None or fault:
        return found, fault
    if step_folder(folder, step=step.name, key=key).is_dir():
        return None, "begun, not finished: goes on"
    others = list((folder / step.name).glob("*/step.json"))
    return None, "made with other settings, inputs or code only" if others else "never made"
