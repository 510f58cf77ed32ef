"""Canaries in every place a secret may come in by; none of them in anything that was stored, logged or printed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console

from pipelines.config.errors import RecipeError
from pipelines.config.instruct import JobConfig
from pipelines.config.tracking import TrackingConfig
from pipelines.console.errors import user_sentence
from pipelines.tracking.gate import Verdict
from pipelines.tracking.job import job_tracking
from pipelines.tracking.model_version import NewVersion
from pipelines.tracking.opening import open_tracker
from pipelines.tracking.registry import register_model
from pipelines.tracking.sending import TrackingError

CANARY = "canary5in6a7coal8mine"
ADDRESS = f"https://ann:{CANARY}@host/x"
SIGNED = f"s3://bucket/x?X-Amz-Signature={CANARY}"


@pytest.fixture
def storage(storage: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", f"{CANARY}-of-the-environment")
    return storage


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_no_canary(folder: Path, console: Console) -> None:
    files = everything(folder)
    assert any(name.endswith("mlflow.db") for name in files)
    assert [name for name, content in files.items() if CANARY.encode() in content] == []
    assert CANARY not in console.export_text(clear=False)


def test_everything_a_tracker_is_given(storage: Path, submit: Callable[..., Any], tmp_path: Path) -> None:
    tracker = submit()
    settings = {"hub.token": CANARY, "uri": ADDRESS, "text": f"x {CANARY}-of-the-environment", "list": [SIGNED]}
    tracker.open_parent(name="job", settings=settings, text=f"uri: {ADDRESS}\n")
    child = tracker.open_child("stage1", key="s", settings=settings)
    assert tracker.client.get_run(child).data.params["hub.token"] == "***"
    tracker.log_dataset(child, name="d", digest="a" * 64, source=SIGNED, profile={})
    tracker.log_checkpoint(child, name="c", step=1, digest="b" * 64, folder=Path(SIGNED), numbers={})
    tracker.tag(child, {"note": ADDRESS})
    (tmp_path / "model.py").write_text("import mlflow\nmlflow.models.set_model(lambda model_input: model_input)\n")
    new = NewVersion("memvp", tmp_path / "model.py", {}, ("mlflow",), tags={"from": ADDRESS})
    register_model(tracker, child, new=new, judge=lambda champion: Verdict(True, f"better than {ADDRESS}"))
    assert_no_canary(storage, tracker.console)


def test_outage_is_told_without_the_address(storage: Path, submit: Callable[..., Any], monkeypatch: Any) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException(f"no connection to {ADDRESS}")

    tracker = submit()
    monkeypatch.setattr(tracker.client, "log_batch", refuse)
    monkeypatch.setattr(tracker, "uri", ADDRESS)
    tracker.log_numbers(tracker.parent_id, {"x": 1})
    assert "https://***@host/x stopped answering" in tracker.console.export_text(clear=False)
    assert_no_canary(storage, tracker.console)


def test_settings_of_a_job(storage: Path, recipe: Callable[..., JobConfig]) -> None:
    config = recipe("smoke")
    config = replace(config, tracking=replace(config.tracking, uri=ADDRESS), storage=SIGNED)
    console = Console(record=True, width=200)
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    with job_tracking(config, uri=uri, storage=storage, folder=storage, console=console) as tracking:
        tracker = tracking.tracker
        text = Path(tracker.client.download_artifacts(tracker.parent_id, "settings.yaml")).read_text()
    assert "https://***@host/x" in text
    assert_no_canary(storage, console)


def test_sentences_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(TrackingError) as caught:
        open_tracker(
            TrackingConfig(),
            uri=f"nonsense://ann:{CANARY}@x",
            storage=tmp_path,
            run_folder=tmp_path,
            key="k",
            console=Console(),
        )
    assert CANARY not in str(caught.value)
    assert user_sentence(RecipeError(f"the server at {ADDRESS} does not answer")) == (
        "the server at https://***@host/x does not answer"
    )
