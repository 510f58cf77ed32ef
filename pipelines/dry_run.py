"""`--dry-run`: what a submission would run and what it would re-use, without touching anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines import preflight
from pipelines.kinds import Kind
from pipelines.options import Options
from pipelines.steps import FinishedStep, Step, find_finished, step_folder, step_key


@dataclass(frozen=True)
class Planned:
    """What would become of one step."""

    step: str
    """its name"""
    action: str
    """re-use, run or refuse"""
    reason: str
    """why"""


def describe_job(kind: Kind, config: Any, *, options: Options, storage: Path, console: Console) -> list[Planned]:
    """Print the plan and return it. Raises a ValueError with one sentence for whatever would stop the job at once."""
    steps, kept = options.wanted(kind.steps(config))
    preflight.check_sources(config, steps)
    counts = preflight.check_models(config)
    folder = storage / config.name
    plan = list(_planned(steps, config=config, folder=folder, kept=kept))
    table = Table(title=f"{config.name}: what would happen below {folder}", title_justify="left")
    for title in ("step", "action", "why"):
        table.add_column(title)
    for one in plan:
        table.add_row(one.step, one.action, one.reason)
    console.print(table)
    for name, count in counts.items():
        console.print(f"trainable parameters, {name}: {count:,}", soft_wrap=True)
    return plan


def _planned(steps: tuple[Step, ...], *, config: Any, folder: Path, kept: frozenset[str]) -> Iterator[Planned]:
    finished: dict[str, FinishedStep] = {}
    for step in steps:
        missing = [name for name in step.needs.values() if name not in finished]
        found, reason = (
            (None, f"{', '.join(missing)} comes first") if missing else _found(step, config, folder, finished)
        )
        if found is not None:
            finished[step.name] = found
            yield Planned(step.name, "re-use", f"made in {found.record.seconds:.1f} s")
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
