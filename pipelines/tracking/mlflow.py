"""A job's runs in MLflow: one parent run, a child run per step, all of it safe to send again.

What is on disk is the truth; MLflow is a copy. So a server that goes away in the middle costs a warning, never the job,
and the same command later sends what is missing: runs are found again by id, points already there are skipped.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from pipelines.console.redaction import redacted, redacted_settings
from pipelines.tracking.checkpoints import CheckpointSender
from pipelines.tracking.pages import source_tags
from pipelines.tracking.pending import delete_pending

_LONGEST_PARAM = 6000
_SECONDS_FOR_THE_LAST_SAMPLE = 5.0


class Tracker(CheckpointSender):
    """The job's line to MLflow. Made by `open_tracker` (opening.py)."""

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


def _started_monitor(run_id: str, *, uri: str) -> Any:
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
        monitor.start()
    except Exception:  # drivers of disks and GPUs raise what they like
        return None
    return monitor
