"""The model registry: a version is logged, registered and, if the gate agrees, the champion."""

from collections.abc import Callable, Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from pipelines.console.redaction import first_line, redacted
from pipelines.tracking.gate import REASON_TAG, Verdict
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.model_version import NewVersion
from pipelines.tracking.quiet import quiet_mlflow
from pipelines.tracking.sending import TrackingError, metrics_of

CHAMPION = "champion"
_MODEL_NAME = "model"
_ABOUT = """Adapters that give a frozen language model sight by memory-space visual prompts (MemVP).

    import mlflow
    model = mlflow.pyfunc.load_model("models:/{name}@champion")
    model.predict([{{"image": image, "question": "What is this?"}}])
"""


def register_model(
    tracker: Tracker,
    run_id: str,
    *,
    new: NewVersion,
    judge: Callable[[Mapping[str, str] | None], Verdict],
) -> dict[str, Any]:
    """Log the models-from-code file with its artifacts and register it; champion moves to it only if `judge` agrees.

    `judge` is asked with the tags of the champion, None if there is no other one. Returns {"name", "version", "uri",
    "run_id", "champion", "reason"}. A version this run already registered is used again.

    Raises:
        TrackingError: the registry does not answer, or MLflow was away when the step's run (`run_id`) was to be made.
    """
    name = new.name
    if not run_id:
        raise _cannot_register(tracker, "MLflow was away and the step has no run there")
    try:
        version = _registered_version(tracker, run_id, name=name)
        if version is None:
            _delete_unregistered(tracker, run_id)
            version = _log_model(tracker, run_id, new)
        _describe(tracker, new, version=version)
        verdict = judge(_champion_tags(tracker, name=name, other_than=version))
        for key, value in {**new.tags, REASON_TAG: verdict.reason}.items():
            tracker.client.set_model_version_tag(name, version, key, redacted(value))
        if verdict.passed:
            tracker.client.set_registered_model_alias(name, CHAMPION, version)
    except (MlflowException, OSError) as error:
        raise _cannot_register(tracker, first_line(error)) from error
    uri = f"models:/{name}@{CHAMPION}" if verdict.passed else f"models:/{name}/{version}"
    return {
        "name": name, "version": version, "uri": uri, "run_id": run_id, "champion": verdict.passed,
        "reason": verdict.reason,
    }  # fmt: skip


def _cannot_register(tracker: Tracker, reason: str) -> TrackingError:
    return TrackingError(
        f"cannot register the model at {redacted(tracker.uri)} ({reason}); what was trained is kept, "
        "run the same command again when MLflow answers"
    )


def _describe(tracker: Tracker, new: NewVersion, *, version: str) -> None:
    """What the registry's pages say, the scores on the version's model; a description that somebody wrote stays."""
    source = tracker.client.update_model_version(new.name, version, description=new.description).source
    model = tracker.client.get_logged_model(str(source).removeprefix("models:/"))
    if not model.metrics:
        numbers = metrics_of(new.numbers, step=0, model_id=model.model_id)
        tracker.client.log_batch(str(model.source_run_id), metrics=numbers)
    if not tracker.client.get_registered_model(new.name).description:
        tracker.client.update_registered_model(new.name, description=_ABOUT.format(name=new.name))


def _champion_tags(tracker: Tracker, *, name: str, other_than: str) -> Mapping[str, str] | None:
    champion = tracker.client.get_registered_model(name).aliases.get(CHAMPION)
    if champion is None or str(champion) == other_than:
        return None
    return tracker.client.get_model_version(name, str(champion)).tags


def is_registered(tracker: Tracker, registered: Mapping[str, Any]) -> bool:
    """The registry still has this version; True when offline (nothing can be said, nothing should be redone).

    A version of no run of ours (MLflow was away when it was made) does not count: it stands in a stray run.
    """
    if registered.get("run_id") == "":
        return False
    try:
        return tracker.client.get_model_version(registered["name"], registered["version"]).status == "READY"
    except MlflowException as error:
        return error.error_code != "RESOURCE_DOES_NOT_EXIST"


def _registered_version(tracker: Tracker, run_id: str, *, name: str) -> str | None:
    found = tracker.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    ready = [str(version.version) for version in found if version.status == "READY"]
    return ready[0] if ready else None


def _delete_unregistered(tracker: Tracker, run_id: str) -> None:
    """Models of the run that no version has: a submission was killed before it registered them."""
    registered = {version.source for version in tracker.client.search_model_versions(f"run_id = '{run_id}'")}
    wanted = f"source_run_id = '{run_id}' AND name = '{_MODEL_NAME}'"
    for model in tracker.client.search_logged_models([tracker.experiment_id], filter_string=wanted):
        if f"models:/{model.model_id}" not in registered:
            tracker.client.delete_logged_model(model.model_id)


def _log_model(tracker: Tracker, run_id: str, new: NewVersion) -> str:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    inputs = Schema([ColSpec(AnyType(), "image"), ColSpec("string", "question")])
    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    with quiet_mlflow(), mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=_MODEL_NAME,
            python_model=str(new.model_file),
            artifacts={key: str(path) for key, path in new.artifacts.items()},
            pip_requirements=list(new.requirements),
            signature=ModelSignature(inputs=inputs, outputs=Schema([ColSpec("string", "answer")])),
            metadata=dict(new.metadata),
            registered_model_name=new.name,
        )
    return str(info.registered_model_version)
