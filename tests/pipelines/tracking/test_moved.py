"""A storage folder that was moved or copied: said before anything is written at the old place, mended by a command."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from rich.console import Console

from pipelines.config.errors import RecipeError
from pipelines.config.tracking import TrackingConfig
from pipelines.tracking.gate import Verdict
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.model_version import NewVersion
from pipelines.tracking.moved import check_not_moved, main
from pipelines.tracking.opening import open_tracker
from pipelines.tracking.registry import register_model

MODEL = """
import mlflow
from pathlib import Path


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return [Path(context.artifacts["answer"]).read_text()]


mlflow.models.set_model(Model())
"""


def submit(storage: Path) -> Tracker:
    """One submission, up to its open parent run."""
    uri, console = f"sqlite:///{storage / 'mlflow.db'}", Console()
    tracker = open_tracker(TrackingConfig(), uri=uri, storage=storage, run_folder=storage, key="k", console=console)
    tracker.open_parent(name="job", settings={}, text="stage1: {seed: 0}\n")
    return tracker


@pytest.fixture
def first(empty_database: Path, tmp_path: Path) -> Path:
    """A storage with a registered model, in a folder whose name an address writes in another way."""
    storage = tmp_path / "höuse of runs"
    storage.mkdir()
    shutil.copy(empty_database, storage / "mlflow.db")
    tracker = submit(storage)
    stage, child = (tracker.open_child(step, key=step, settings={}) for step in ("stage1", "register"))
    tracker.log_checkpoint(stage, name="one", step=1, digest="d" * 64, folder=storage / "job/stage1", numbers={})
    files = {"model.py": MODEL, "answer.txt": "a red apple"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    new = NewVersion("memvp", tmp_path / "model.py", {"answer": tmp_path / "answer.txt"}, ("mlflow",))
    register_model(tracker, child, new=new, judge=lambda champion: Verdict(True, "because"))
    tracker.close(tracker.parent_id, status="FINISHED")
    check_not_moved(tracker.uri, storage=storage)
    return storage


def answer(storage: Path) -> list[str]:
    mlflow.set_tracking_uri(f"sqlite:///{storage / 'mlflow.db'}")
    mlflow.set_registry_uri(f"sqlite:///{storage / 'mlflow.db'}")
    return mlflow.pyfunc.load_model("models:/memvp@champion").predict([{"image": 0, "question": "What?"}])


@pytest.mark.parametrize("put", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_the_command_that_is_named_mends_it(
    first: Path, put: Callable[[Path, Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    second = first.with_name("elsewhere")
    put(first, second)
    shutil.rmtree(first, ignore_errors=True)
    _artifact_repos_cache.clear()  # what comes now is another process
    uri = f"sqlite:///{second / 'mlflow.db'}"
    with pytest.raises(RecipeError, match=rf"was at {first} when .*run python -m pipelines.tracking.moved {second} "):
        check_not_moved(uri, storage=second)
    with pytest.raises(MlflowException, match="No such artifact"):
        answer(second)
    assert main([str(second)]) == 0
    assert capsys.readouterr().out == f"8 addresses changed in {second / 'mlflow.db'}\n"
    check_not_moved(uri, storage=second)
    assert answer(second) == ["a red apple"]
    tracker = submit(second)
    assert [item.path for item in tracker.client.list_artifacts(tracker.parent_id)] == ["settings.yaml"]
    folders = {model.tags.get("memvp.folder") for model in tracker.client.search_logged_models(["1"])}
    assert folders == {None, str(second / "job/stage1")}
    assert not first.exists(), "something was written at the old place"
    assert main([str(second)]) == 0
    assert capsys.readouterr().out.startswith("0 addresses")


def test_another_name_of_the_same_folder_is_no_move(first: Path) -> None:
    link = first.with_name("link")
    link.symlink_to(first)
    check_not_moved(f"sqlite:///{link / 'mlflow.db'}", storage=link)


def test_a_database_of_somebody_else_is_not_looked_into(first: Path, tmp_path: Path) -> None:
    check_not_moved(f"sqlite:///{first / 'mlflow.db'}", storage=tmp_path)
    check_not_moved("http://127.0.0.1:5000", storage=tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"no database")
    check_not_moved(f"sqlite:///{tmp_path / 'mlflow.db'}", storage=tmp_path)


def test_without_a_storage_the_command_explains_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == main([]) == 2
    assert "usage: python -m pipelines.tracking.moved STORAGE" in capsys.readouterr().err
