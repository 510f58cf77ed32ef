"""MLflow away for a whole stage: training does not notice, and what is sent later has every point once."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console

from memvp_train.checkpoints.state import newest_first, read_state
from memvp_train.config import LaunchConfig
from memvp_train.training.metrics_log import MetricsRow, read_metrics
from memvp_train.training.result import StageResult
from memvp_train.training.stage import run_stage
from pipelines.config.tracking import TrackingConfig
from pipelines.steps import tune
from pipelines.steps.tune import _Curve
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.opening import open_tracker

pytestmark = pytest.mark.faults

STEPS = 150
HERE = LaunchConfig(num_workers=0)


class _Broken(BaseHTTPRequestHandler):
    """Answers every request with an error of the server."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(500)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Into nothing."""


@contextmanager
def _server(kind: str) -> Iterator[str]:
    """The address of a server that refuses, never answers, or fails."""
    if kind == "fails with 500":
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Broken)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "never answers":
            listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _submit(folder: Path) -> Tracker:
    uri, console = f"sqlite:///{folder / 'mlflow.db'}", Console(record=True, width=200)
    tracker = open_tracker(TrackingConfig(), uri=uri, storage=folder, run_folder=folder, key="k", console=console)
    tracker.open_parent(name="job", settings={}, text="")
    return tracker


@pytest.fixture(scope="module")
def quiet(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """The stage with nobody to tell."""
    return run_stage(_stage(tiny, tmp_path_factory.mktemp("quiet")), HERE)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making its tables takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("mlflow")
    _submit(folder)
    return folder / "mlflow.db"


def _stage(tiny: Any, out: Path) -> Any:
    return tiny.run(out, num_steps=STEPS, checkpoint_every=50, log_every=5)


def _seconds(result: StageResult) -> float:
    return sum(row["seconds"] for row in read_metrics(Path(result.metrics_path)))


_LONGER = (pytest.param(kind, marks=pytest.mark.slow) for kind in ("never answers", "fails with 500"))


@pytest.mark.parametrize("kind", ["refuses", *_LONGER])
def test_stage_without_mlflow_is_the_same_and_nothing_is_missing_later(
    tiny: Any,
    tmp_path: Path,
    quiet: StageResult,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault_row: Callable[..., None],
    kind: str,
) -> None:
    shutil.copy(database, tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(tune, "_SECONDS_BETWEEN_SENDS", 0.1)
    tracker = _submit(tmp_path)
    child = tracker.open_child("stage1", key="s1", settings={})
    with _server(kind) as address:
        tracker.client = MlflowClient(address, address)
        services = SimpleNamespace(tracker=tracker, run_id=child)
        curve = _Curve(SimpleNamespace(progress=_Bar(), services=services), total=STEPS)  # type: ignore[arg-type]
        spent = list[float]()

        def add(row: MetricsRow) -> None:
            before = time.thread_time()
            curve.add(row)
            spent.append(time.thread_time() - before)

        result = run_stage(_stage(tiny, tmp_path / "out"), HERE, on_step=add)
        curve.send(read_metrics(Path(result.metrics_path)))
        tracker.mark_complete(child)
    assert tracker.console.export_text().count("stopped answering") == 1
    ends = [read_state(newest_first(Path(each.metrics_path).parent / "checkpoints")[0]) for each in (quiet, result)]
    torch.testing.assert_close(ends[0].weights, ends[1].weights, rtol=0, atol=0)

    again = _submit(tmp_path)
    assert again.open_child("stage1", key="s1", settings={}) == child
    assert not again.has_complete("s1")
    again.log_curves(child, read_metrics(Path(result.metrics_path)))
    runs = again.client.search_runs([again.experiment_id])
    assert sorted(run.data.tags.get("memvp.step", "parent") for run in runs) == ["parent", "stage1"]
    points = again.client.get_metric_history(child, "loss")
    assert sorted(point.step for point in points) == list(range(1, STEPS + 1))
    fault_row(
        goal="R12",
        fault=f"MLflow {kind}",
        what_was_done=f"for all {STEPS} steps of a stage, then the same command with MLflow back",
        times=1,
        result="one warning, weights bit-equal; 0 metric points lost, no run doubled",
        figure=f"{1000 * sum(spent):.0f} ms of CPU in another thread, {sum(spent) / _seconds(result):.2%} of step time",
    )


class _Bar:
    """Stands for the progress bar."""

    def describe(self, text: str) -> None:
        """Nothing to write on."""

    def __call__(self, done: int, total: int) -> None:
        """Nothing to draw on."""
