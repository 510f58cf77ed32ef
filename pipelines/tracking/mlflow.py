"""The only file that knows MLflow: one parent run per job, a child run per step, all of it safe to send again.

What is on disk is the truth; MLflow is a copy. So a server that goes away in the middle costs a warning, never the job,
and the same command later sends what is missing: runs are found again by id, points already there are skipped.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL
from rich.console import Console

from memvp_train.training.metrics_log import MetricsRow
from pipelines.config.tracking import TrackingConfig
from pipelines.console.redaction import first_line, redacted, redacted_settings
from pipelines.tracking.database import is_full, is_half_made, make_database
from pipelines.tracking.moved import ARTIFACTS
from pipelines.tracking.pages import EXPERIMENT_TAGS, source_tags, view_tag
from pipelines.tracking.pending import delete_pending
from pipelines.tracking.run_ids import RunIds, database_path, run_ids, was_tracked

T = TypeVar("T")

_ROWS_PER_CALL = 200
_LONGEST_PARAM = 6000
_LONGEST_DIGEST = 36
# MLflow's own patience is 7 retries of up to 120 s: four minutes of silence for every call to a dead server.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_SECONDS_FOR_THE_LAST_SAMPLE = 5.0


class TrackingError(ValueError):
    """MLflow refused what the job cannot do without (opening the run, registering the model)."""


@dataclass
class Tracker:
    """The job's line to MLflow. Made by `open_tracker`."""

    client: MlflowClient
    """bound to the tracking address"""
    uri: str
    """tracking address"""
    experiment_id: str
    """experiment of all runs"""
    ids: RunIds
    """<run>/mlflow.json, the run ids of earlier submissions"""
    run_key: str
    """hash of the job's settings: the same job gets the same parent run"""
    console: Console
    """for the one warning"""
    parent_id: str = ""
    """run id of the parent"""
    offline: bool = False
    """a call failed; nothing more is sent in this submission"""
    _logged_until: dict[str, int] = field(default_factory=dict)

    def attempt(self, action: Callable[[], T]) -> T | None:
        """Run a call that the job can do without; on failure warn once and go offline."""
        if self.offline:
            return None
        try:
            return action()
        except (MlflowException, OSError) as error:
            self.go_offline(error)
            return None

    def go_offline(self, error: Exception) -> None:
        """Warn, and send nothing more in this submission."""
        self.offline = True
        self.console.print(
            f"warning: MLflow at {redacted(self.uri)} stopped answering ({first_line(error)}); the job goes on, "
            "run the same command again to send what is missing"
        )

    def open_parent(self, *, name: str, settings: Mapping[str, Any], text: str) -> None:
        """Re-open the job's parent run or create it; all settings become params, the YAML an artifact."""
        if self.offline:
            self.parent_id = self.ids.get("runs", self.run_key) or ""
            return
        self.parent_id = self._find_or_create(("runs", self.run_key), tags={"memvp.run_key": self.run_key}, name=name)
        self.ids.remember("experiments", self.run_key, self.experiment_id)
        self._start(self.parent_id, settings=settings)
        self.tag(self.parent_id, source_tags())
        self.client.log_text(self.parent_id, redacted(text), "settings.yaml")
        children = set(self.ids.group("children").values())
        self.attempt(lambda: delete_pending(self.client, experiment_id=self.experiment_id, run_ids=children))

    def open_child(self, step: str, *, key: str, settings: Mapping[str, Any]) -> str:
        """The step's run below the parent: found again or created. Returns "" when offline."""

        def action() -> str:
            tags = {"mlflow.parentRunId": self.parent_id, "memvp.step": step, "memvp.step_key": key}
            run_id = self._find_or_create(("children", f"{self.parent_id}/{key}"), tags=tags, name=step)
            self._start(run_id, settings=settings)
            return run_id

        return self.attempt(action) or ""

    def _start(self, run_id: str, *, settings: Mapping[str, Any]) -> None:
        clean = redacted_settings(settings)
        params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in clean.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])
        self.client.update_run(run_id, status="RUNNING")

    def has_complete(self, key: str) -> bool:
        """This parent has a child for the step key, and all of it was sent."""
        return self.ids.is_complete(self.parent_id, key)

    def mark_complete(self, run_id: str) -> None:
        """Remember on disk that nothing of this run is missing in MLflow."""
        if run_id and not self.offline:
            self.ids.remember("complete", run_id, "sent")

    def tag_reused(self, run_id: str, *, key: str) -> None:
        """Point from a re-used step's run to the run that made it."""
        children = self.ids.group("children")
        makers = [child for place, child in children.items() if place.endswith(f"/{key}") and child != run_id]
        if makers:
            self.tag(run_id, {"memvp.reused_from": makers[0]})

    def close(self, run_id: str, *, status: str) -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        if run_id:
            self.attempt(lambda: self.client.set_terminated(run_id, status=status))

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Sample this machine's processors, memory, disk, network and NVIDIA GPUs into the run while the block runs.

        Every 10 s, or $MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL. Whatever goes wrong with it is not the job's concern.
        """
        monitor = self.attempt(lambda: _started_monitor(run_id, uri=self.uri)) if run_id else None
        try:
            yield
        finally:
            if monitor is not None:
                # A server that hangs would hold the last sample, and with it the job.
                closing = threading.Thread(target=monitor.finish, daemon=True)
                closing.start()
                closing.join(_SECONDS_FOR_THE_LAST_SAMPLE)

    def log_dataset(
        self, run_id: str, *, name: str, digest: str, source: str, profile: Mapping[str, Any], context: str = "training"
    ) -> None:
        """Record what a step read, by the SHA-256 of its manifest; MLflow keeps 36 digits, the profile all."""
        entity = Dataset(
            name=name,
            digest=digest[:_LONGEST_DIGEST],
            source_type="local",
            source=json.dumps({"uri": redacted(source)}),
            profile=json.dumps({**profile, "sha256": digest}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        self._for_run(run_id, lambda: self.client.log_inputs(run_id, datasets=[DatasetInput(entity, tags=tags)]))

    def log_checkpoint(
        self, run_id: str, *, name: str, step: int, digest: str, folder: Path, numbers: Mapping[str, float]
    ) -> None:
        """A LoggedModel for weights that stay where they are: folder, digest and figures, no copy. Once per run."""

        def action() -> None:
            model_id = self._find_model(run_id, digest=digest)
            if model_id is None:
                model_id = self._create_model(run_id, name=name, step=step, digest=digest, folder=folder)
                # Under names of their own: MLflow shows a model's figures on its run too, where the curve has them.
                own = {f"checkpoint/{name}": value for name, value in numbers.items()}
                self.client.log_batch(run_id, metrics=metrics_of(own, step=step, model_id=model_id))
                # Last, so that one that is READY has everything.
                self.client.finalize_logged_model(model_id, "READY")
            self.ids.remember("models", f"{self.parent_id}/{digest}", model_id)

        self._for_run(run_id, action)

    def _find_model(self, run_id: str, *, digest: str) -> str | None:
        wanted = f"source_run_id = '{run_id}' AND tags.`memvp.digest` = '{digest}'"
        found = self.client.search_logged_models([self.experiment_id], filter_string=wanted)
        return next((model.model_id for model in found if model.status == "READY"), None)

    def _create_model(self, run_id: str, *, name: str, step: int, digest: str, folder: Path) -> str:
        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "memvp.digest": digest, "memvp.folder": redacted(str(folder))}
        model = self.client.create_logged_model(
            self.experiment_id,
            name=name,
            source_run_id=run_id,
            tags=tags,
            params={"step": str(step)},
            model_type="adapter",
        )
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        return model.model_id

    def log_curves(self, run_id: str, rows: Iterable[MetricsRow]) -> None:
        """Send the rows of a curve that MLflow does not have yet; rows may come again after a resume."""

        def action() -> None:
            known = self._last_step(run_id)
            fresh = [row for row in rows if row["step"] > known]
            now = int(time.time() * 1000)
            for start in range(0, len(fresh), _ROWS_PER_CALL):
                part = fresh[start : start + _ROWS_PER_CALL]
                metrics = [
                    Metric(name, row[name], now, int(row["step"])) for row in part for name in row if name != "step"
                ]
                self.client.log_batch(run_id, metrics=metrics)
                self._logged_until[run_id] = int(part[-1]["step"])

        self._for_run(run_id, action)

    def log_numbers(self, run_id: str, numbers: Mapping[str, float], *, of: str = "") -> None:
        """Single figures of a step (accuracies, seconds); those of an adapter, by digest, also on its LoggedModel."""
        model_id = self.ids.get("models", f"{self.parent_id}/{of}")
        self._for_run(
            run_id, lambda: self.client.log_batch(run_id, metrics=metrics_of(numbers, step=0, model_id=model_id))
        )

    def log_table(self, run_id: str, *, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table for the UI's evaluation view; sent once per run."""

        def action() -> None:
            if name not in {item.path for item in self.client.list_artifacts(run_id)}:
                self.client.log_table(run_id, data=dict(columns), artifact_file=name)

        self._for_run(run_id, action)

    def log_file(self, run_id: str, path: Path, *, folder: str | None = None) -> None:
        """A picture or report as artifact."""
        self._for_run(run_id, lambda: self.client.log_artifact(run_id, str(path), folder))

    def save_view(self, name: str, *, numbers: Sequence[str]) -> None:
        """Of the list of runs, with these figures as columns."""
        key, value = view_tag(name, numbers=numbers)
        self.attempt(lambda: self.client.set_experiment_tag(self.experiment_id, key, value))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        entries = [RunTag(name, redacted(value)) for name, value in tags.items()]
        self._for_run(run_id, lambda: self.client.log_batch(run_id, tags=entries))

    def _for_run(self, run_id: str, action: Callable[[], object]) -> None:
        if run_id:
            self.attempt(action)

    def _last_step(self, run_id: str) -> int:
        if run_id not in self._logged_until:
            history = self.client.get_metric_history(run_id, "loss")
            self._logged_until[run_id] = max((point.step for point in history), default=-1)
        return self._logged_until[run_id]

    def _find_or_create(self, place: tuple[str, str], *, tags: dict[str, str], name: str) -> str:
        """By the id on disk, else by our tags (killed between creating and writing the id), else a new run."""
        run_id = self.ids.get(*place) or self._search(tags)
        if run_id is None or not self._alive(run_id):
            run_id = self.client.create_run(self.experiment_id, run_name=name, tags=tags).info.run_id
        self.ids.remember(*place, run_id)
        return run_id

    def _alive(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _search(self, tags: Mapping[str, str]) -> str | None:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1)
        return found[0].info.run_id if found else None


def open_tracker(
    config: TrackingConfig, *, uri: str, storage: Path, run_folder: Path, key: str, console: Console
) -> Tracker:
    """Connect and find or create the experiment; offline if this run was tracked there before and nothing answers now.

    Raises:
        TrackingError: the address does not work, and never did for this run.
    """
    ids = run_ids(run_folder, uri=uri)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        make_database(uri)
        client = MlflowClient(uri, uri)
        found = client.get_experiment_by_name(config.experiment)
        artifacts = (storage / ARTIFACTS).as_uri() if uri.startswith("sqlite:") else None
        experiment = (
            found.experiment_id if found else client.create_experiment(config.experiment, artifacts, EXPERIMENT_TAGS)
        )
    except Exception as error:  # any driver of any store may raise here, and to the user it is the same thing
        if is_half_made(error, uri=uri):
            raise TrackingError(
                f"the MLflow database {database_path(uri)} was left half-made by a start that ended too early "
                f"({first_line(error)}); move it away and run the same command again: what is on disk is sent anew"
            ) from error
        if not was_tracked(run_folder, uri=uri):
            mend = (
                "free some room on that disk and run the same command again" if is_full(error) else "set tracking.uri"
            )
            sentence = f"cannot open MLflow at {redacted(uri)} ({first_line(error)}); {mend}"
            raise TrackingError(sentence) from error
        tracker = Tracker(MlflowClient(uri, uri), uri, "", ids, key, console)
        tracker.go_offline(error)
        return tracker
    return Tracker(client, uri, experiment, ids, key, console)


def _started_monitor(run_id: str, *, uri: str) -> Any:
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
        monitor.start()
    except Exception:  # drivers of disks and GPUs raise what they like
        return None
    return monitor


def metrics_of(numbers: Mapping[str, float], *, step: int, model_id: str | None) -> list[Metric]:
    """Figures of now, of a LoggedModel if one is named."""
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step, model_id=model_id) for name, value in numbers.items()]
