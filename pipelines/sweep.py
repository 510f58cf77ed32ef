"""Several runs that differ in one setting, and one table: seeds with their mean and spread, or the values of a setting.

    python pipelines/sweep.py --config pipelines/recipes/bart_vqav2.yaml --config pipelines/recipes/bart_gqa.yaml \\
        --seeds 0,1,2
    python pipelines/sweep.py --config pipelines/recipes/toyworld.yaml --vary stage2.lora.rank=1,4,16,64

Several recipes stand side by side and have an average, as in the paper's Table 1; --over lays a recipe over each of
them. Runs of a recipe share its folder and what they have in common, such as features. After a kill the same command
goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    # Run as a script: Python then puts this folder on the path instead of the one that holds the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.jobs.kinds import JobKind


@dataclass(frozen=True)
class Sweep:
    """What is asked for."""

    recipes: tuple[str, ...]
    """recipe files, one column (or more) each"""
    over: tuple[str, ...]
    """recipe files laid over each of them"""
    setting: str | None
    """dotted name of what varies; None: the seed of every stage"""
    values: tuple[str, ...]
    """its values, one line each"""
    overrides: tuple[str, ...]
    """settings of every run"""

    def arguments(self, kind: JobKind, recipe: str, value: str) -> list[str]:
        """Command line of one run."""
        stages = ("stage",) if kind.script == "finetune.py" else ("stage1", "stage2")
        names = [f"{stage}.seed" for stage in stages] if self.setting is None else [self.setting]
        files = [f"--config={path}" for path in (recipe, *self.over)]
        return [*files, *self.overrides, *(f"--{name}={value}" for name in names)]


def main(arguments: list[str]) -> int:
    """Run the sweep; the exit code is explained in entry.py."""
    from pipelines.jobs.entry import exit_code

    return exit_code(lambda: _run(read_sweep(arguments)))


def read_sweep(arguments: Sequence[str]) -> Sweep:
    """Command line -> what is asked for."""
    parser = argparse.ArgumentParser(prog="sweep.py", description=(__doc__ or "").split("\n\n")[0])
    several = "of finetune.py or instruct_tune.py; may be given several times"
    parser.add_argument("--config", action="append", required=True, metavar="RECIPE", help=several)
    parser.add_argument("--over", action="append", default=[], metavar="RECIPE", help="laid over every recipe")
    varied = parser.add_mutually_exclusive_group(required=True)
    varied.add_argument("--seeds", metavar="0,1,2", help="seeds of every stage; the table ends with mean and spread")
    varied.add_argument("--vary", metavar="SETTING=A,B,C", help="a setting of the recipe and its values")
    chosen, overrides = parser.parse_known_args(list(arguments))
    setting, _, values = chosen.vary.partition("=") if chosen.vary else (None, "", chosen.seeds)
    return Sweep(tuple(chosen.config), tuple(chosen.over), setting, tuple(values.split(",")), tuple(overrides))


def _run(sweep: Sweep) -> None:
    from rich.console import Console

    from pipelines.jobs.command_line import read_settings, tuning_kind
    from pipelines.workflow.run_folder import storage_folder, write_json

    console = Console()
    # Every run is read before the first one starts: a value that is none must not be found out after a day.
    runs = [
        [
            (kind := tuning_kind([f"--config={recipe}"]), read_settings(kind, sweep.arguments(kind, recipe, value)))
            for recipe in sweep.recipes
        ]
        for value in sweep.values
    ]
    storage = storage_folder(runs[0][0][1].storage, environment=os.environ)
    print(storage, flush=True)
    lines = []
    for value, jobs in zip(sweep.values, runs, strict=True):
        scores: dict[str, float] = {}
        for kind, config in jobs:
            console.rule(f"{config.name}, {sweep.setting or 'seed'} {value}")
            scores |= _scores(kind, config, storage=storage, console=console)
        lines.append({"value": value, "scores": scores})
    result = {"setting": sweep.setting or "seed", "lines": lines, **_summary([line["scores"] for line in lines])}
    write_json(storage / f"sweep-{'-'.join(config.name for _, config in runs[0])}.json", result)
    _print(result, console=console)


def _scores(kind: JobKind, config: Any, *, storage: Path, console: Console) -> dict[str, float]:
    """What the run is judged by, column -> score in per cent (CIDEr: times 100), and what it trained."""
    from pipelines.jobs.options import Options
    from pipelines.jobs.run import run_job

    report = run_job(kind, config, options=Options(), storage=storage, console=console)
    assert report is not None, "a run without options runs to its end"
    if kind.script == "instruct_tune.py":
        trained = report["trainable_parameters"]["stage2"]
        return {config.name: 100 * report["rows"]["stage2"]["accuracy"], f"{config.name} trained": trained}
    firsts = {title: next(iter(rows.values())) for title, rows in report["benchmarks"].items()}
    found = {f"{config.name}: {title}": next(iter(one["scores"].values()))["value"] for title, one in firsts.items()}
    return {**found, f"{config.name} trained": report["trainable_parameters"]}


def _summary(lines: list[dict[str, float]]) -> dict[str, Any]:
    """Average over the recipes' scores, line by line; mean and sample standard deviation over the lines."""
    averages = [
        statistics.fmean(value for name, value in line.items() if not name.endswith(" trained")) for line in lines
    ]
    columns = {name: [line[name] for line in lines] for name in lines[0]} | {"average": averages}
    spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return {"average": averages, "mean": {name: statistics.fmean(v) for name, v in columns.items()}, "spread": spread}


def _print(result: dict[str, Any], *, console: Console) -> None:
    from rich.table import Table

    names = list(result["lines"][0]["scores"])
    table = Table(title=f"one line per {result['setting']}", title_justify="left")
    for title in (result["setting"], *names, "average"):
        table.add_column(title, justify="right")
    for line, average in zip(result["lines"], result["average"], strict=True):
        table.add_row(line["value"], *(_cell(line["scores"][name], name) for name in names), f"{average:.2f}")
    if result["setting"] == "seed":
        for title in ("mean", "spread"):
            table.add_row(title, *(_cell(result[title][name], name) for name in (*names, "average")))
    console.print(table)


def _cell(value: float, name: str) -> str:
    return f"{value:,.0f}" if name.endswith(" trained") else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
