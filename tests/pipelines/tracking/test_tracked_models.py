"""Checkpoints as LoggedModels, the registry's champion behind its gate, and the machine's own metrics."""

import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

from pipelines.tracking.gate import QUESTIONS_TAG, REASON_TAG, SCORE_TAG, Verdict
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.model_version import NewVersion
from pipelines.tracking.registry import is_registered, register_model
from pipelines.tracking.sending import TrackingError

DIGEST = "d" * 64


def a_model_file(folder: Path) -> Path:
    path = folder / "model.py"
    path.write_text(
        "import mlflow\n\n\nclass Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input):\n        return ['x']\n\n\nmlflow.models.set_model(Model())\n"
    )
    return path


def register(
    tracker: Tracker, child: str, *, folder: Path, passes: bool, seen: list[Any] | None = None
) -> dict[str, Any]:
    def judge(champion: Any) -> Verdict:
        if seen is not None:
            seen.append(champion)
        return Verdict(passes, "because")

    tags = {SCORE_TAG: "0.5", QUESTIONS_TAG: "q"}
    shown = {"tags": tags, "numbers": {"image": 0.5}, "description": "Job `toy`: 0.5 on image."}
    new = NewVersion("memvp", a_model_file(folder), {}, ("mlflow",), **shown)
    return register_model(tracker, child, new=new, judge=judge)


def checkpoint(tracker: Tracker, child: str, *, digest: str = DIGEST, step: int = 8) -> None:
    tracker.log_checkpoint(
        child, name=f"stage1-step-{step}", step=step, digest=digest, folder=Path("/x"), numbers={"loss": 0.25}
    )


def champion(tracker: Tracker) -> str:
    return str(tracker.client.get_model_version_by_alias("memvp", "champion").version)


def models_of(tracker: Tracker) -> list[Any]:
    return list(tracker.client.search_logged_models([tracker.experiment_id]))


def test_checkpoint_is_a_model_that_stays_where_it_is(submit: Any) -> None:
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    checkpoint(tracker, child)
    (model,) = models_of(tracker)
    assert (model.name, model.status, model.source_run_id) == ("stage1-step-8", "READY", child)
    assert model.tags["memvp.digest"] == DIGEST
    assert model.tags["memvp.folder"] == "/x"
    assert model.params == {"step": "8"}
    assert {metric.key: (metric.value, metric.step) for metric in model.metrics} == {"checkpoint/loss": (0.25, 8)}
    (output,) = tracker.client.get_run(child).outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 8)


def test_checkpoint_sent_again_is_the_same_model(submit: Any, storage: Path) -> None:
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    checkpoint(tracker, child)
    (storage / "mlflow.json").unlink()  # killed before the id reached the disk
    again = submit()
    checkpoint(again, again.open_child("stage1", key="s1", settings={}))
    assert len(models_of(again)) == 1


def test_scores_stand_on_the_model_they_belong_to(submit: Any) -> None:
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    checkpoint(tracker, child)
    checkpoint(tracker, child, digest="e" * 64, step=4)
    scoring = tracker.open_child("evaluate", key="e1", settings={})
    tracker.log_numbers(scoring, {"accuracy": 0.75}, of=DIGEST)
    by_name = {model.name: {metric.key for metric in model.metrics} for model in models_of(tracker)}
    assert by_name == {"stage1-step-8": {"checkpoint/loss", "accuracy"}, "stage1-step-4": {"checkpoint/loss"}}
    assert tracker.client.get_run(scoring).data.metrics == {"accuracy": 0.75}


def test_champion_moves_only_through_the_gate(submit: Any, tmp_path: Path) -> None:
    tracker, seen = submit(), []
    runs = [tracker.open_child("register", key=f"r{number}", settings={}) for number in range(3)]
    first = register(tracker, runs[0], folder=tmp_path, passes=True, seen=seen)
    second = register(tracker, runs[1], folder=tmp_path, passes=False, seen=seen)
    assert champion(tracker) == first["version"]
    assert (first["uri"], first["champion"]) == ("models:/memvp@champion", True)
    assert (second["uri"], second["champion"]) == (f"models:/memvp/{second['version']}", False)
    third = register(tracker, runs[2], folder=tmp_path, passes=True, seen=seen)
    assert champion(tracker) == third["version"]
    assert [first["version"], second["version"], third["version"]] == ["1", "2", "3"]
    assert seen[0] is None
    assert seen[1][SCORE_TAG] == "0.5"
    assert is_registered(tracker, second)


def test_version_says_why(submit: Any, tmp_path: Path) -> None:
    tracker = submit()
    child = tracker.open_child("register", key="r", settings={})
    version = register(tracker, child, folder=tmp_path, passes=False)["version"]
    tags = tracker.client.get_model_version("memvp", version).tags
    assert (tags[REASON_TAG], tags[SCORE_TAG], tags[QUESTIONS_TAG]) == ("because", "0.5", "q")
    assert "champion" not in tracker.client.get_registered_model("memvp").aliases


def test_version_is_described_and_carries_its_scores(submit: Any, tmp_path: Path) -> None:
    tracker = submit()
    child = tracker.open_child("register", key="r", settings={})
    registered = register(tracker, child, folder=tmp_path, passes=True)
    version = tracker.client.get_model_version("memvp", registered["version"])
    assert version.description == "Job `toy`: 0.5 on image."
    assert 'load_model("models:/memvp@champion")' in tracker.client.get_registered_model("memvp").description
    logged = tracker.client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics} == {"image": 0.5}


def test_a_description_that_somebody_wrote_stays(submit: Any, tmp_path: Path) -> None:
    tracker = submit()
    tracker.client.create_registered_model("memvp", description="ours")
    child = tracker.open_child("register", key="r", settings={})
    register(tracker, child, folder=tmp_path, passes=True)
    assert tracker.client.get_registered_model("memvp").description == "ours"


def test_registering_again_neither_doubles_nor_compares_with_itself(submit: Any, tmp_path: Path) -> None:
    tracker, seen = submit(), []
    child = tracker.open_child("register", key="r", settings={})
    once = register(tracker, child, folder=tmp_path, passes=True, seen=seen)
    assert register(tracker, child, folder=tmp_path, passes=True, seen=seen) == once
    assert seen == [None, None]


class Killed(BaseException):
    """Passes whatever handles errors, and MLflow's own tidying up."""


def _kill(*args: object, **kwargs: object) -> NoReturn:
    raise Killed


@pytest.mark.parametrize(
    ("place", "left", "key"),
    [
        ("mlflow.MlflowClient.log_model_artifacts", "PENDING", "k"),
        ("mlflow.MlflowClient.log_model_artifacts", "PENDING", "other settings"),
        ("mlflow.tracking._model_registry.fluent._register_model", "READY", "k"),
    ],
)
def test_a_kill_while_registering_leaves_one_whole_model_after_the_next_submission(
    submit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, left: str, key: str
) -> None:
    tracker = submit()
    child = tracker.open_child("register", key="r", settings={})
    with monkeypatch.context() as patch:
        patch.setattr(place, _kill)
        with pytest.raises(Killed):
            register(tracker, child, folder=tmp_path, passes=True)
    assert [model.status for model in models_of(tracker)] == [left]
    again = submit(key=key)
    register(again, again.open_child("register", key="r", settings={}), folder=tmp_path, passes=True)
    (model,), (version,) = models_of(again), again.client.search_model_versions("name = 'memvp'")
    assert (model.status, version.status, version.source) == ("READY", "READY", f"models:/{model.model_id}")


def test_a_kill_between_a_version_and_its_scores_loses_none(
    submit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = submit()
    child = tracker.open_child("register", key="r", settings={})
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", _kill)
        with pytest.raises(Killed):
            register(tracker, child, folder=tmp_path, passes=True)
    again = submit()
    for _ in range(2):
        register(again, child, folder=tmp_path, passes=True)
    (model,) = models_of(again)
    assert {metric.key: metric.value for metric in model.metrics} == {"image": 0.5}
    assert len(again.client.get_metric_history(child, "image")) == 1


def test_a_kill_while_a_checkpoint_is_sent_leaves_one_whole_model(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", _kill)
        with pytest.raises(Killed):
            checkpoint(tracker, child)
    again = submit()
    assert not models_of(again)
    checkpoint(again, child)
    (model,) = models_of(again)
    assert (model.status, [metric.key for metric in model.metrics]) == ("READY", ["checkpoint/loss"])


def test_what_another_job_is_registering_is_left_alone(submit: Any) -> None:
    tracker = submit()
    other = tracker.client.create_run(tracker.experiment_id).info.run_id
    tracker.client.create_logged_model(tracker.experiment_id, name="model", source_run_id=other)
    assert [model.status for model in models_of(submit())] == ["PENDING"]


def test_without_a_run_nothing_is_registered(submit: Any, tmp_path: Path) -> None:
    tracker = submit()
    with pytest.raises(TrackingError, match=r"cannot register .*MLflow was away .*; what was trained is kept"):
        register(tracker, "", folder=tmp_path, passes=True)
    assert not tracker.client.search_registered_models()


def test_a_version_of_a_stray_run_does_not_count(submit: Any, tmp_path: Path) -> None:
    tracker = submit()
    registered = register(tracker, tracker.open_child("register", key="r", settings={}), folder=tmp_path, passes=True)
    assert is_registered(tracker, registered)
    assert not is_registered(tracker, {**registered, "run_id": ""})


def test_machine_is_sampled_while_a_step_runs(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = submit()
    child = tracker.open_child("stage1", key="s1", settings={})
    names: set[str] = set()
    with tracker.system_metrics(child):
        end = time.monotonic() + 120
        while not names and time.monotonic() < end:
            time.sleep(0.1)
            names = set(tracker.client.get_run(child).data.metrics)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names


def test_sampling_that_fails_is_not_the_jobs_concern(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics import system_metrics_monitor

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no sensors")

    monkeypatch.setattr(system_metrics_monitor, "SystemMetricsMonitor", broken)
    tracker = submit()
    with tracker.system_metrics(tracker.open_child("stage1", key="s1", settings={})):
        pass
    assert isinstance(tracker.console, Console)
    assert not tracker.offline
