"""Runs a job: every step is re-used or run, in order, under one MLflow parent run and one Ray session."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from memvp_train.config import StageConfig
from memvp_train.launch.cores import num_cores
from memvp_train.launch.processes import num_processes, serve_processes
from pipelines.config.errors import RecipeError
from pipelines.config.plain import flat_settings
from pipelines.console.progress import step_progress
from pipelines.jobs import preflight
from pipelines.jobs.finish import FinishedJob, finish_job
from pipelines.jobs.kinds import JobKind
from pipelines.jobs.options import Options
from pipelines.jobs.services import Services
from pipelines.tracking.job import job_tracking
from pipelines.tracking.moved import check_not_moved
from pipelines.tracking.run_ids import was_tracked
from pipelines.tracking.step_run import StepRun
from pipelines.workflow.run_folder import make_run_folder, run_lock
from pipelines.workflow.step import (
    FinishedStep,
    Step,
    StepContext,
    find_finished,
    imported,
    run_step,
    step_folder,
    step_key,
)


def run_job(kind: JobKind, config: Any, *, options: Options, storage: Path, console: Console) -> dict[str, Any] | None:
    """Run what is not finished yet; returns the report, None if the job was not to run to its end.

    Raises a ValueError with one sentence for a user's mistake.
    """
    steps, kept = options.wanted(kind.steps(config))
    preflight.check_sources(config, steps)
    preflight.check_gate(config)
    preflight.check_adapters(config)
    uri = preflight.tracking_address(config, storage=storage)
    folder = make_run_folder(storage, name=config.name)
    if not was_tracked(folder, uri=uri):
        preflight.check_tracking(uri)
    check_not_moved(uri, storage=storage)
    with (
        run_lock(folder) as lease,
        ExitStack() as stack,
        job_tracking(config, uri=uri, storage=storage, folder=folder, console=console) as tracking,
    ):
        services = Services(launch=config.launch, tracking=tracking, stack=stack)
        job = _Job(config, folder=folder, services=services, console=console)
        for step in steps:
            lease.check()
            job.finish(step, may_run=step.name not in kept)
        if len(steps) < len(kind.steps(config)):
            console.print(f"stopped after {steps[-1].name}, as asked; the same command without it goes on")
            return None
        return finish_job(FinishedJob(config, imported(kind.report), job.finished, folder, tracking, console))


@dataclass
class _Job:
    """The steps finished so far, and how the next one is finished."""

    config: Any
    folder: Path
    services: Services
    console: Console
    finished: dict[str, FinishedStep] = field(default_factory=dict)
    _models_checked: bool = False

    def finish(self, step: Step, *, may_run: bool) -> None:
        """Re-use the step or run it; either way MLflow has it afterwards."""
        key = step_key(step, config=self.config, inputs=step.inputs(self.finished))
        found, fault = find_finished(step, run_folder=self.folder, key=key, depth=self.config.verify_outputs)
        is_registry_step = step.name == "register"
        if found is not None and is_registry_step and not self.services.tracking.has_version(found.record.summary):
            found, fault = None, "the registry no longer has the version"
        if fault:
            self.console.print(f"{step.title}: made again, because {fault}", soft_wrap=True)
        if found is not None:
            self.console.print(f"{step.title}: re-used (took {found.record.seconds:.1f} s when it was made)")
            self._log_reused(step, key=key, found=found)
        elif not may_run:
            raise RecipeError(
                f"{step.name} is not finished under these settings, and --from leaves it out; run it first"
            )
        else:
            found = self._run(step, key=key)
            self.console.print(f"{step.title}: done in {found.record.seconds:.1f} s")
            for line in found.record.summary.get("says", ()):
                self.console.print(line, soft_wrap=True)
        self.finished[step.name] = found

    def _run(self, step: Step, *, key: str) -> FinishedStep:
        if not self._models_checked:
            self._begin(step)
        if "stage" in step.about and self.config.launch.num_workers == 0:
            self.console.print(f"{step.title}: training {self._cores(self.config.stages[step.about['stage']])}")
        tracker = self.services.tracker
        with self._child(step, key=key) as run_id, step_progress(step.title, console=self.console) as progress:
            self.services.run_id = run_id
            folder = step_folder(self.folder, step=step.name, key=key)
            inputs = step.inputs(self.finished)
            context = StepContext(self.config, folder, inputs, progress, self.services, about=step.about)
            with tracker.system_metrics(run_id):
                done = run_step(step, context=context, key=key)
            self._log(step, done, run_id=run_id)
        tracker.mark_complete(run_id)
        return done

    def _begin(self, step: Step) -> None:
        """Before the first step that runs."""
        launch = self.config.launch
        if launch.num_workers == 0 and num_processes(launch) > 1:
            serve_processes()
        preflight.check_models(self.config)
        if step.name != "register":  # which needs no workers
            self.services.check_resources()
        self._models_checked = True

    def _cores(self, stage: StageConfig) -> str:
        count, cores = num_processes(self.config.launch, stage), num_cores()
        if count > 1:
            return f"in {count} processes, a core each"
        return f"in this process on {cores} core{'s' if cores > 1 else ''}"

    def _log_reused(self, step: Step, *, key: str, found: FinishedStep) -> None:
        """Nothing, unless an outage or a new parent run left MLflow without this step."""
        if self.services.tracking.has_complete(key):
            return
        tracker = self.services.tracker
        with self._child(step, key=key) as run_id:
            tracker.tag_reused(run_id, key=key)
            self._log(step, found, run_id=run_id)
        tracker.mark_complete(run_id)

    def _log(self, step: Step, done: FinishedStep, *, run_id: str) -> None:
        """What the step made and read, to MLflow."""
        run = StepRun(self.services.tracker, run_id, done, step.inputs(self.finished))
        if step.log is not None:
            imported(step.log)(run)
        run.log_numbers({"step_seconds": done.record.seconds})

    @contextmanager
    def _child(self, step: Step, *, key: str) -> Iterator[str]:
        tracker = self.services.tracker
        run_id = tracker.open_child(step.name, key=key, settings=flat_settings(step.settings(self.config)))
        try:
            yield run_id
        except BaseException as error:
            tracker.close(run_id, status="FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        tracker.close(run_id, status="FINISHED")
