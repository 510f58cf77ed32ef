"""The driver's part of training: start the workers where the launch says, until the last step's checkpoint is there."""

from pathlib import Path

from memvp_train.checkpoints.lease import Lease
from memvp_train.checkpoints.quarantine import put_damaged_aside
from memvp_train.checkpoints.state import FolderCheckpoints, TrainingState, load_newest, newest_first
from memvp_train.config import LaunchConfig
from memvp_train.launch.processes import num_processes
from memvp_train.launch.ray_snapshot import clear_cut_off
from memvp_train.training.loop import TrainingError
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.validation import has_stopped
from memvp_train.training.worker import train_here, train_worker

LOCAL_FOLDER, WORKERS_FOLDER = "checkpoints", "train"


def train(plan: WorkerPlan, *, lease: Lease) -> TrainingState:
    """The state after the last step, trained now unless a checkpoint of it is there."""
    out = Path(plan.run.out)
    state = _last_state(plan)
    if state is not None and _is_last(state, plan):
        return state
    if plan.launch.num_workers == 0:
        _train_on_this_machine(plan, folder=out / LOCAL_FOLDER, lease=lease)
    else:
        from memvp_train.launch.workers import run_workers

        config = plan.to_plain()
        run_workers(train_worker, config=config, launch=plan.launch, name=WORKERS_FOLDER, storage=out, lease=lease)
    state = _last_state(plan)
    if state is None or not _is_last(state, plan):
        step = 0 if state is None else state.step
        raise TrainingError(f"training in {out} ended at step {step} of {plan.num_steps}; run the same again")
    return state


def _train_on_this_machine(plan: WorkerPlan, *, folder: Path, lease: Lease) -> None:
    count = num_processes(plan.launch, plan.run.stage)
    if count == 1:
        train_here(plan, checkpoints=FolderCheckpoints(folder, lease=lease))
    else:
        from memvp_train.launch.process_group import run_processes

        config, timeout = plan.to_plain(), plan.launch.timeout_seconds
        how = {"num_processes": count, "timeout_seconds": timeout, "folder": folder, "lease": lease}
        run_processes(train_worker, config=config, **how)


def checkpoints_folder(out: Path, *, launch: LaunchConfig) -> Path:
    """Where the checkpoints of a stage lie below its folder."""
    return out / (LOCAL_FOLDER if launch.num_workers == 0 else WORKERS_FOLDER)


def _is_last(state: TrainingState, plan: WorkerPlan) -> bool:
    return state.step == plan.num_steps or has_stopped(state)


def _last_state(plan: WorkerPlan) -> TrainingState | None:
    folder = checkpoints_folder(Path(plan.run.out), launch=plan.launch)
    if plan.launch.num_workers:
        clear_cut_off(folder)
    put_damaged_aside(folder)
    return load_newest(newest_first(folder), settings=plan.settings)
