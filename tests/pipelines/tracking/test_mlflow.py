"""What MLflow holds after crashes, outages and second submissions: each run once, each point once, nothing missing."""

import json
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console

from pipelines.config.tracking import TrackingConfig
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.opening import open_tracker
from pipelines.tracking.run_ids import RunIds
from pipelines.tracking.sending import TrackingError

Submit = Callable[..., Tracker]
CURVE = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 8)]


def all_runs(tracker: Tracker) -> list[Any]:
    return list(tracker.client.search_runs([tracker.experiment_id], ""))


def steps_of(tracker: Tracker, run_id: str) -> list[int]:
    return sorted(point.step for point in tracker.client.get_metric_history(run_id, "loss"))


def test_second_submission_reopens_the_same_runs(submit: Submit) -> None:
    first = submit()
    child = first.open_child("stage1", key="s1", settings={"a": 1})
    first.close(child, status="FINISHED")
    second = submit()
    assert second.parent_id == first.parent_id
    assert second.open_child("stage1", key="s1", settings={"a": 1}) == child
    assert second.client.get_run(child).data.tags["mlflow.parentRunId"] == second.parent_id


def test_run_is_found_by_its_tags_when_the_id_never_reached_the_disk(submit: Submit, storage: Path) -> None:
    first = submit()
    (storage / "mlflow.json").unlink()
    assert submit().parent_id == first.parent_id


def test_other_settings_are_another_parent(submit: Submit) -> None:
    before = len(all_runs(submit()))
    assert submit(key="other").parent_id != submit().parent_id
    assert len(all_runs(submit())) == before + 1


def test_deleted_run_is_made_again(submit: Submit) -> None:
    first = submit()
    first.client.delete_run(first.parent_id)
    assert submit().parent_id != first.parent_id


def test_settings_become_params_and_an_artifact(submit: Submit) -> None:
    tracker = submit()
    assert tracker.client.get_run(tracker.parent_id).data.params["stage1.seed"] == "0"
    assert [item.path for item in tracker.client.list_artifacts(tracker.parent_id)] == ["settings.yaml"]


def test_curve_replayed_in_pieces_has_each_point_once(submit: Submit) -> None:
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    tracker.log_curves(child, CURVE[:4])
    tracker.log_curves(child, CURVE[2:5])
    resumed = submit()
    resumed.log_curves(child, CURVE)
    assert steps_of(resumed, child) == [1, 2, 3, 4, 5, 6, 7]


def test_outage_costs_one_warning_and_no_point(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    tracker.log_curves(child, CURVE[:3])
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", _refuse)
        tracker.log_curves(child, CURVE)
        tracker.log_numbers(child, {"accuracy": 0.5})
        tracker.close(child, status="FINISHED")
    tracker.mark_complete(child)
    assert tracker.console.export_text().count("stopped answering") == 1
    again = submit()
    assert not again.has_complete("s1")
    again.log_curves(child, CURVE)
    again.mark_complete(child)
    assert steps_of(again, child) == [1, 2, 3, 4, 5, 6, 7]
    assert submit().has_complete("s1")


def _refuse(*args: object, **kwargs: object) -> None:
    raise MlflowException("connection refused")


@pytest.mark.faults
def test_job_that_was_tracked_goes_on_without_mlflow(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        make = partial(open_tracker, TrackingConfig(), uri=uri, storage=storage, run_folder=storage, key="k")
        with pytest.raises(TrackingError, match="cannot open MLflow at"):
            make(console=Console())
        RunIds(storage / "mlflow.json", uri=uri).remember("runs", "k", "parent")
        tracker = make(console=Console(record=True, width=200))
    tracker.open_parent(name="job", settings={}, text="")
    assert tracker.parent_id == "parent"
    child = tracker.open_child("stage1", key="s1", settings={})
    tracker.log_curves(child, CURVE)
    tracker.mark_complete(child)
    tracker.close(tracker.parent_id, status="FINISHED")
    assert (child, tracker.has_complete("s1")) == ("", False)
    assert tracker.console.export_text().count("stopped answering") == 1


def test_table_is_not_appended_to_itself(submit: Submit) -> None:
    tracker = submit()
    for _ in range(2):
        tracker.log_table(tracker.parent_id, name="results.json", columns={"row": ["base"], "n": [3]})
    table = json.loads(Path(tracker.client.download_artifacts(tracker.parent_id, "results.json")).read_text())
    assert table == {"columns": ["row", "n"], "data": [["base", 3]]}


def test_dataset_carries_the_digest(submit: Submit) -> None:
    tracker = submit()
    tracker.log_dataset(tracker.parent_id, name="images", digest="a" * 64, source="/x", profile={"images": 3})
    (entry,) = tracker.client.get_run(tracker.parent_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("images", "a" * 36)


def test_reused_step_points_to_the_run_that_made_it(submit: Submit) -> None:
    first = submit()
    made = first.open_child("stage1", key="s1", settings={})
    second = submit(key="other")
    again = second.open_child("stage1", key="s1", settings={})
    second.tag_reused(again, key="s1")
    assert second.client.get_run(again).data.tags["memvp.reused_from"] == made != again


def test_address_that_does_not_work_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"cannot open MLflow at nonsense://x .*set tracking.uri") as caught:
        open_tracker(
            TrackingConfig(), uri="nonsense://x", storage=tmp_path, run_folder=tmp_path, key="k", console=Console()
        )
    assert "\n" not in str(caught.value)
