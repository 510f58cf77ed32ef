"""What a job tells MLflow of its runs: figures, curves, tables, files. What cannot be sent costs one warning."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.exceptions import MlflowException
from rich.console import Console

from memvp_train.training.metrics_log import MetricsRow
from pipelines.console.redaction import first_line, redacted
from pipelines.tracking.pages import view_tag
from pipelines.tracking.run_ids import RunIds

T = TypeVar("T")

_ROWS_PER_CALL = 200
_LONGEST_DIGEST = 36


class TrackingError(ValueError):
    """MLflow refused what the job cannot do without (opening the run, registering the model)."""


@dataclass
class Sender:
    """A line to MLflow on which everything may be sent again: what is there already is skipped."""

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

    def _for_run(self, run_id: str, action: Callable[[], object]) -> None:
        if run_id:
            self.attempt(action)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        entries = [RunTag(name, redacted(value)) for name, value in tags.items()]
        self._for_run(run_id, lambda: self.client.log_batch(run_id, tags=entries))

    def log_numbers(self, run_id: str, numbers: Mapping[str, float], *, of: str = "") -> None:
        """Single figures of a step (accuracies, seconds); those of an adapter, by digest, also on its LoggedModel."""
        model_id = self.ids.get("models", f"{self.parent_id}/{of}")
        self._for_run(
            run_id, lambda: self.client.log_batch(run_id, metrics=metrics_of(numbers, step=0, model_id=model_id))
        )

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

    def _last_step(self, run_id: str) -> int:
        if run_id not in self._logged_until:
            history = self.client.get_metric_history(run_id, "loss")
            self._logged_until[run_id] = max((point.step for point in history), default=-1)
        return self._logged_until[run_id]

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


def metrics_of(numbers: Mapping[str, float], *, step: int, model_id: str | None) -> list[Metric]:
    """Figures of now, of a LoggedModel if one is named."""
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step, model_id=model_id) for name, value in numbers.items()]
