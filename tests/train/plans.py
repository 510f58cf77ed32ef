"""A stage prepared without being trained, for tests of what workers do with it."""

from memvp_train.config import LaunchConfig, StageRun
from memvp_train.training.identity import absolute, stage_settings
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.prepare import prepare_stage


def plan_of(run: StageRun, launch: LaunchConfig) -> WorkerPlan:
    """The plan that `run_stage` would hand to workers."""
    run = absolute(run)
    return prepare_stage(run, launch, settings=stage_settings(run, precision=launch.precision))
