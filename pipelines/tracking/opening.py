"""A job connects to MLflow: its database is made whole, its experiment found or made, or a sentence says why not."""

import logging
import os
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console

from pipelines.config.tracking import TrackingConfig
from pipelines.console.redaction import first_line, redacted
from pipelines.tracking.database import is_full, is_half_made, make_database
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.moved import ARTIFACTS
from pipelines.tracking.pages import EXPERIMENT_TAGS
from pipelines.tracking.run_ids import database_path, run_ids, was_tracked
from pipelines.tracking.sending import TrackingError

# MLflow's own patience is 7 retries of up to 120 s: four minutes of silence for every call to a dead server.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


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
