"""The kinds of job, one row each: the settings it reads, its steps, and how it reports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.config.benchmarks import ComparisonConfig, FinetuneConfig
from pipelines.config.instruct import JobConfig
from pipelines.steps.table import comparison_steps, finetune_steps, instruct_steps
from pipelines.workflow.step import Step


@dataclass(frozen=True)
class JobKind:
    """One entry point's kind of job."""

    script: str
    """file name of the entry point"""
    title: str
    """one line for --help"""
    config: type
    """dataclass of its settings"""
    steps: Callable[[Any], tuple[Step, ...]]
    """settings -> its steps, in order"""
    report: str
    """"module:name" of how it reports when the last step is done, imported then"""


INSTRUCT = JobKind(
    script="instruct_tune.py",
    title="Raw images to an evaluated, registered adapter: two stages of instruction tuning.",
    config=JobConfig,
    steps=instruct_steps,
    report="pipelines.reports.instruct:FORM",
)
FINETUNE = JobKind(
    script="finetune.py",
    title="The official files of one benchmark to an adapter tuned on it, its official score and a registered model.",
    config=FinetuneConfig,
    steps=finetune_steps,
    report="pipelines.reports.benchmarks:FORM",
)
COMPARISON = JobKind(
    script="evaluate.py",
    title="Any adapters of a language model on any benchmarks: predictions, official scores, one page to compare.",
    config=ComparisonConfig,
    steps=comparison_steps,
    report="pipelines.reports.benchmarks:FORM",
)
