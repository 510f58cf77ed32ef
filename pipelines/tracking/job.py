"""A job's line to MLflow, opened only when there is something to send or to ask.

Importing MLflow takes longer than all else in a job that re-uses every step. So when a job ends with everything sent,
the state of MLflow's database file is written down; while nobody has changed it, the next submission need not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.config.plain import as_settings, describe_settings, flat_settings
from pipelines.console.redaction import redacted_settings
from pipelines.tracking.pages import view_route
from pipelines.tracking.run_ids import database_state, run_ids
from pipelines.workflow.digests import digest_json

if TYPE_CHECKING:
    from pipelines.tracking.mlflow import Tracker

# These say where a job is kept, not what it is: with others the parent run in MLflow is still the same one.
_NOT_PART_OF_THE_JOB = ("storage", "tracking", "verify_outputs")


@dataclass
class JobTracking:
    """The parent run of one submission. Made by `job_tracking`."""

    config: Any
    """settings of the job"""
    uri: str
    """tracking address"""
    storage: Path
    """folder of all runs"""
    folder: Path
    """run folder"""
    console: Console
    """for warnings"""

    def __post_init__(self) -> None:
        own = {name: value for name, value in as_settings(self.config).items() if name not in _NOT_PART_OF_THE_JOB}
        self._key = digest_json(own)
        self._ids = run_ids(self.folder, uri=self.uri)
        self._opened: Tracker | None = None
        state = database_state(self.uri)
        self._is_unchanged = state is not None and state == self._ids.get("databases", self._key)
        if not self._is_unchanged:
            self._opened = self._open()

    @property
    def tracker(self) -> Tracker:
        """MLflow, the parent run open."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> Tracker:
        from pipelines.tracking.opening import open_tracker

        where = {"uri": self.uri, "storage": self.storage, "run_folder": self.folder}
        tracker = open_tracker(self.config.tracking, **where, key=self._key, console=self.console)
        clean = redacted_settings(as_settings(self.config))
        own = {name: value for name, value in clean.items() if name not in _NOT_PART_OF_THE_JOB}
        tracker.open_parent(name=self.config.name, settings=flat_settings(own), text=describe_settings(clean))
        return tracker

    @property
    def _parent_id(self) -> str:
        return self._opened.parent_id if self._opened is not None else self._ids.get("runs", self._key) or ""

    @property
    def page(self) -> str:
        """Where the server's pages show this job beside others, below the server's address; "" if that is not known."""
        experiment = self._ids.get("experiments", self._key)
        return "" if experiment is None else view_route(self.config.name, experiment=experiment)

    def has_complete(self, key: str) -> bool:
        """The parent has a child for the step key, and all of it was sent."""
        return self._ids.is_complete(self._parent_id, key)

    def has_version(self, registered: Mapping[str, Any]) -> bool:
        """The registry still has the version that the step `register` made."""
        if self._opened is None and self._is_unchanged:
            return True
        from pipelines.tracking.registry import is_registered

        return is_registered(self.tracker, registered)

    def send_report(self, key: str, send: Callable[[Tracker], None]) -> None:
        """Send what the job reports unless the parent has it: `key` is the digest of its content."""
        if self._ids.get("reports", self._parent_id) == key:
            return
        send(self.tracker)
        if not self.tracker.offline:
            self._ids.remember("reports", self.tracker.parent_id, key)

    def close(self, *, status: str) -> None:
        """End the parent run: FINISHED, FAILED or KILLED."""
        if self._opened is None:
            return
        self._opened.close(self._opened.parent_id, status=status)
        state = database_state(self.uri)
        if status == "FINISHED" and state is not None and not self._opened.offline:
            self._ids.remember("databases", self._key, state)


@contextmanager
def job_tracking(config: Any, *, uri: str, storage: Path, folder: Path, console: Console) -> Iterator[JobTracking]:
    """Track the block as one submission of the job. Raises TrackingError where MLflow does not answer and never did."""
    tracking = JobTracking(config, uri, storage, folder, console)
    try:
        yield tracking
    except BaseException as error:
        tracking.close(status="FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracking.close(status="FINISHED")
