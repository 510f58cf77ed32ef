"""Which steps of a job are wanted: `--dry-run`, `--until`, `--from` and `--only`, beside the settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse import ArgumentParser

from pipelines.config.errors import RecipeError
from pipelines.workflow.step import Step

NAMES = ("dry_run", "until", "from", "only")


@dataclass(frozen=True)
class Options:
    """What is asked of one submission; none of it is part of the job."""

    dry_run: bool = False
    """print what would run, be re-used and cost; start nothing"""
    until: str | None = None
    """last step that runs"""
    start: str | None = None
    """first step that may run; those before it must be finished"""

    def wanted(self, steps: Sequence[Step]) -> tuple[tuple[Step, ...], frozenset[str]]:
        """The steps up to the last one wanted, and the names of those that may not run.

        Raises:
            RecipeError: a name is no step of this job, or nothing is left.
        """
        names = [step.name for step in steps]
        first = 0 if self.start is None else _place(self.start, names=names, option="--from")
        last = len(names) - 1 if self.until is None else _place(self.until, names=names, option="--until")
        if last < first:
            raise RecipeError(f"--until {self.until} comes before --from {self.start}; steps: {', '.join(names)}")
        return tuple(steps[: last + 1]), frozenset(names[:first])


def add_options(parser: ArgumentParser) -> None:
    """Put the options into a group of the help of their own."""
    group = parser.add_argument_group("which steps")
    group.add_argument(
        "--dry-run", action="store_true", help="print what would run, be re-used and cost; start nothing"
    )
    group.add_argument("--until", metavar="STEP", help="stop after this step")
    group.add_argument("--from", metavar="STEP", help="do not run steps before this one: they must be finished")
    group.add_argument("--only", metavar="STEP", help="run this step alone: --from and --until in one")


def read_options(values: dict[str, object]) -> Options:
    """Take the options out of what the parser found."""
    dry_run, until, start, only = (values.pop(name, None) for name in NAMES)
    if only is not None and (until is not None or start is not None):
        raise RecipeError("--only is --from and --until in one; give it alone")
    return Options(dry_run=bool(dry_run), until=_text(only or until), start=_text(only or start))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _place(name: str, *, names: list[str], option: str) -> int:
    if name not in names:
        raise RecipeError(f"{option} {name!r} is no step of this job; steps: {', '.join(names)}")
    return names.index(name)
