"""What a step's key depends on, and what it must not."""

from dataclasses import replace
from typing import Any

import pytest

from memvp_train.config import LaunchConfig
from pipelines.jobs.command_line import read_arguments
from pipelines.jobs.kinds import INSTRUCT
from pipelines.steps.keys import for_stage

SMOKE = ["--config", "pipelines/recipes/smoke.yaml"]


def _key(launch: LaunchConfig) -> Any:
    config, _ = read_arguments(INSTRUCT, SMOKE)
    return for_stage(replace(config, launch=launch), stage="stage2")


@pytest.mark.parametrize(
    "other",
    [{"num_workers": 4}, {"num_workers": 0, "local_processes": 2}, {"cpus_per_worker": 3}, {"hang_seconds": 5}],
    ids=str,
)
def test_a_stage_is_the_same_for_any_number_of_workers(other: dict[str, Any]) -> None:
    assert _key(LaunchConfig(num_workers=2)) == _key(LaunchConfig(**{"num_workers": 2, **other}))


def test_and_another_one_in_another_precision() -> None:
    assert _key(LaunchConfig()) != _key(LaunchConfig(precision="bf16"))
