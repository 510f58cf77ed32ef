"""The last step: the tuned adapter becomes a version in the model registry, and its champion if it passes the gate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluation.scores import accuracy_of
from pipelines.steps.keys import serving_settings
from pipelines.tracking.gate import Measured, decide
from pipelines.tracking.model_version import NewVersion
from pipelines.tracking.step_run import metric_name
from pipelines.workflow.run_folder import write_json
from pipelines.workflow.step import StepContext, StepOutcome

MODEL_FILE = Path(__file__).parents[1] / "serving" / "mlflow_model.py"
# Named without versions: the registered model runs wherever these packages do; the tested set is constraints.txt.
_REQUIREMENTS = ("memvp-core", "memvp-data", "memvp-train", "mlflow", "torch", "transformers", "peft", "safetensors")


def register(context: StepContext) -> StepOutcome:
    """Log the models-from-code file with the adapter, register it, let the gate decide about champion."""
    from pipelines.tracking.registry import register_model

    settings_path = context.folder / "serving.json"
    write_json(settings_path, serving_settings(context.config))
    tuned = context.inputs["tuned"]
    gate = context.config.tracking.gate
    measured = _measured(context)
    new = NewVersion(
        name=context.config.tracking.registered_model,
        model_file=MODEL_FILE,
        artifacts={"adapter": tuned.folder / "adapter", "settings": settings_path},
        requirements=_REQUIREMENTS,
        metadata={"memvp_job": context.config.name, "adapter_digest": tuned.record.digest},
        tags={} if measured is None else measured.tags(),
        numbers=_scores(context),
        description=_description(context, measured=measured),
    )
    registered = register_model(
        context.services.tracker,
        context.services.run_id,
        new=new,
        judge=lambda champion: decide(gate, measured=measured, champion=champion),
    )
    context.progress(1, 1)
    return StepOutcome(outputs=(settings_path,), summary=registered)


def _measured(context: StepContext) -> Measured | None:
    """The score that the gate looks at; None where the job asks no questions or the score is undefined."""
    wanted = context.config.tracking.gate.slice
    answered = _tuned(context.inputs["scored"].record.summary["answered"])
    one = next((one for one in answered if wanted in (None, one["split"])), None)
    if one is None:
        return None
    score = headline_of(one)
    digest = context.inputs["build_shards"].record.outputs[f"samples/{one['table']}.parquet"]["sha256"]
    return None if score is None else Measured(score, one["split"], digest)


def _scores(context: StepContext) -> dict[str, float]:
    """The headline score of every question set that the tuned model answered as it is."""
    scores: dict[str, float] = {}
    for one in _tuned(context.inputs["scored"].record.summary["answered"]):
        name = metric_name("/".join(filter(None, (one["benchmark"], one["split"]))))
        if (score := headline_of(one)) is not None:
            scores.setdefault(name, score)
    return scores


def _description(context: StepContext, *, measured: Measured | None) -> str:
    """Of the version, in one sentence."""
    config = context.config
    sight = "published features" if config.vision is None else f"`{config.vision.path}`"
    score = "" if measured is None else f"; {measured.score:.4g} on {measured.name}"
    return f"Job `{config.name}`: language model `{config.language.path}`, sight from {sight}{score}."


def _tuned(answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the tuned model: of a benchmark the first row of each split is the model as it is."""
    return [one for one in answered if one["benchmark"] or one["state"] == "stage2"]


def headline_of(answered: Mapping[str, Any]) -> float | None:
    """The score that papers print; accuracies of the job's own questions between 0 and 1, as in report.json."""
    if not answered["benchmark"]:
        return accuracy_of(answered["report"])["accuracy"]
    return next(iter(answered["report"]["scores"].values()))["value"]
