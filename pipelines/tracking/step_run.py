"""One step's run in MLflow, as the step sees it: what it made and read, and the verbs to tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.workflow.step import FinishedStep

if TYPE_CHECKING:
    from pipelines.tracking.mlflow import Tracker


@dataclass(frozen=True)
class StepRun:
    """A finished step and its run; a job submitted again sends what an outage left out."""

    tracker: Tracker
    id: str
    """run id; "" sends nothing"""
    step: FinishedStep
    """what was made"""
    inputs: Mapping[str, FinishedStep]
    """the finished steps it read, by their role"""

    @property
    def summary(self) -> dict[str, Any]:
        """The step's."""
        return self.step.record.summary

    def log_numbers(self, numbers: Mapping[str, float], *, of: str = "") -> None:
        """Single figures, of an adapter by its digest."""
        self.tracker.log_numbers(self.id, numbers, of=of)

    def log_file(self, path: str, *, folder: str | None = None) -> None:
        """A file below the step's folder as artifact."""
        self.tracker.log_file(self.id, self.step.folder / path, folder=folder)

    def log_columns(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table for the UI's evaluation view."""
        self.tracker.log_table(self.id, name=name, columns=columns)

    def log_table(self, built: FinishedStep, name: str, *, context: str) -> None:
        """A samples table, by its SHA-256, on the step's run and on the job's."""
        path = f"samples/{name}.parquet"
        self._log_dataset(
            f"samples-{name}",
            digest=built.record.outputs[path]["sha256"],
            source=built.folder / path,
            profile={"samples": built.record.summary["samples"][name]},
            context=context,
        )

    def log_manifest(self, made: FinishedStep, *, name: str) -> None:
        """Image or feature shards, by the digest of their manifest, on the step's run and on the job's."""
        summary = made.record.summary
        profile = {"images": summary["images"]}
        self._log_dataset(name, digest=summary[f"{name}_digest"], source=made.folder / name, profile=profile)

    def _log_dataset(
        self, name: str, *, digest: str, source: Path, profile: Mapping[str, Any], context: str = "training"
    ) -> None:
        for run_id in (self.id, self.tracker.parent_id):
            self.tracker.log_dataset(
                run_id, name=name, digest=digest, source=str(source), profile=profile, context=context
            )

    def log_weights(self, name: str, *, step: int, digest: str, folder: str, numbers: Mapping[str, float]) -> None:
        """A LoggedModel for a checkpoint or an adapter below the step's folder."""
        name, path = f"{self.step.record.step}-{name}", self.step.folder / folder
        self.tracker.log_checkpoint(self.id, name=name, step=step, digest=digest, folder=path, numbers=numbers)


def metric_name(name: str) -> str:
    """MLflow takes letters, digits and `_-./ :` in a name."""
    return re.sub(r"[^\w\-./ :]", "_", name)
