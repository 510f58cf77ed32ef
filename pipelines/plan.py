"""What a recipe would take on a cluster, before anything is started: memory, time, bytes sent, features on disk.

    python pipelines/plan.py --config pipelines/recipes/llava15_vicuna7b.yaml --gpus 8 --gpu h100-80gb

For MemVP, input-space prompts and full fine-tuning of the same recipe. Only configs of models are read; settings are
overridden as in the job itself. Arithmetic, not measurement: docs/scale.md says what stands behind each number.
"""

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: Python then puts this folder on the path instead of the one that holds the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main(arguments: list[str]) -> int:
    """Print the plan; the exit code is explained in entry.py."""
    from pipelines.jobs.entry import exit_code

    return exit_code(lambda: _run(arguments))


def _run(arguments: list[str]) -> None:
    own, settings = _parser().parse_known_args(arguments)  # before the imports: --help ends here

    import json

    from rich.console import Console

    from pipelines.planning.plan import PlanRequest, plan_of, read_recipe
    from pipelines.planning.table import print_plan

    config = read_recipe(settings)
    lengths = dict(map(_lengths, own.tokens))
    wanted = PlanRequest(machine=own.gpu, num_workers=own.gpus, num_images=own.images, tokens=lengths)
    plan = plan_of(config, wanted)
    if own.json:
        print(json.dumps(plan.as_json(), indent=1))
        return
    console = Console()
    print_plan(plan, console=console if console.is_terminal else Console(width=160))


def _lengths(text: str) -> tuple[str, tuple[int, ...]]:
    from pipelines.config.errors import RecipeError

    stage, _, numbers = text.partition("=")
    parts = numbers.split(",")
    if not stage or not 1 <= len(parts) <= 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise RecipeError(f"--tokens expects STAGE=MEAN[,LONGEST[,LEARNT]] such as stage2=256,2048,96, got {text!r}")
    return stage, tuple(map(int, parts))


def _parser() -> argparse.ArgumentParser:
    from memvp_train.cost_model.hardware import CPU, MACHINES

    made = argparse.ArgumentParser(
        prog="plan.py",
        description="What a recipe would take: memory, time, bytes sent and features on disk, by arithmetic.",
        epilog="Everything else is a setting of the recipe, written --group.setting=value as for the job.",
        allow_abbrev=False,
    )
    made.add_argument("--gpus", type=int, default=None, metavar="N", help="workers (default: the recipe's)")
    made.add_argument("--gpu", choices=(*MACHINES, CPU), default="h100-80gb", help="what each has (%(default)s)")
    made.add_argument("--images", type=int, default=None, metavar="N", help="different images (default: as published)")
    made.add_argument(
        "--tokens", action="append", default=[], metavar="STAGE=MEAN[,LONGEST[,LEARNT]]",
        help="text tokens of a sample, where the data are known better than pipelines/data/sizes.py assumes",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print the numbers as JSON")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
