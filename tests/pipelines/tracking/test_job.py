"""A job asks MLflow only when something has to be sent, or when somebody has written to its database since."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.config.instruct import JobConfig
from pipelines.tracking.job import JobTracking, job_tracking
from pipelines.tracking.mlflow import Tracker

Submit = Callable[..., AbstractContextManager[JobTracking]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry each time a parent run is opened."""
    entries: list[str] = []
    open_parent = Tracker.open_parent

    def noting(self: Tracker, *, name: str, **settings: str) -> None:
        entries.append(name)
        open_parent(self, name=name, **settings)

    monkeypatch.setattr(Tracker, "open_parent", noting)
    return entries


@pytest.fixture
def job(storage: Path, recipe: Callable[..., JobConfig]) -> Submit:
    """`job("--stage1.seed=1")`: one submission of the smoke recipe, of which one step is finished."""

    def begin(*overrides: str) -> AbstractContextManager[JobTracking]:
        where = {"uri": f"sqlite:///{storage / 'mlflow.db'}", "storage": storage, "folder": storage}
        return job_tracking(recipe("smoke", *overrides), **where, console=Console(quiet=True))

    return begin


def finish_step(tracking: JobTracking, key: str = "s1") -> None:
    tracker = tracking.tracker
    child = tracker.open_child("stage1", key=key, settings={})
    tracker.close(child, status="FINISHED")
    tracker.mark_complete(child)


def status_of(tracking: JobTracking) -> str:
    return tracking.tracker.client.get_run(tracking.tracker.parent_id).info.status


def test_finished_job_is_not_opened_again(job: Submit, opened: list[str]) -> None:
    sent: list[str] = []
    for _ in range(3):
        with job() as tracking:
            if not tracking.has_complete("s1"):
                finish_step(tracking)
            assert tracking.has_version({"name": "memvp", "version": "1"}) is bool(sent)
            tracking.send_report("report", lambda tracker: sent.append(tracker.parent_id))
    assert (opened, len(sent)) == (["smoke"], 1)


def test_database_that_somebody_wrote_to_is_asked(job: Submit, opened: list[str]) -> None:
    with job() as first:
        finish_step(first)
    first.tracker.client.delete_run(first.tracker.parent_id)
    with job() as second:
        assert not second.has_complete("s1")
        assert not second.has_version({"name": "memvp", "version": "1"})
    assert second.tracker.parent_id != first.tracker.parent_id
    assert len(opened) == 2


def test_other_settings_are_another_job(job: Submit, opened: list[str]) -> None:
    with job() as first:
        finish_step(first)
    with job("--stage1.seed=7") as other:
        assert not other.has_complete("s1")
    assert len(opened) == 2


def test_unfinished_step_opens_the_same_parent(job: Submit, opened: list[str]) -> None:
    with job() as first:
        finish_step(first)
    with job() as second:
        assert second.has_complete("s1")
        assert not second.has_complete("s2")
        finish_step(second, "s2")
        assert status_of(second) == "RUNNING"
    assert second.tracker.parent_id == first.tracker.parent_id
    assert (status_of(second), len(opened)) == ("FINISHED", 2)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_job_that_ended_badly_is_opened_again(
    job: Submit, opened: list[str], error: type[BaseException], status: str
) -> None:
    def fail(tracking: JobTracking) -> None:
        finish_step(tracking)
        raise error

    with pytest.raises(error), job() as first:
        fail(first)
    assert status_of(first) == status
    with job() as second:
        assert second.has_complete("s1")
    assert (status_of(second), len(opened)) == ("FINISHED", 2)


def test_report_is_sent_again_when_it_changed_or_did_not_arrive(job: Submit) -> None:
    sent: list[str] = []

    def send(tracker: Tracker, *, key: str, arrives: bool) -> None:
        sent.append(key)
        tracker.offline = not arrives

    for key, arrives in (("a", False), ("a", True), ("a", True), ("b", True)):
        with job() as tracking:
            tracking.send_report(key, partial(send, key=key, arrives=arrives))
    assert sent == ["a", "a", "b"]
