"""The last step: the tuned adapter becomes a version in the model registry, and its champion if it passes the gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.data.sources import test_table
from pipelines.steps.keys import serving_settings
from pipelines.tracking.gate import Measured, decide
from pipelines.tracking.model_version import NewVersion
from pipelines.workflow.paths import samples_path
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
    scores = headline_scores(context.inputs["scored"].record.summary)
    wanted = context.config.tracking.gate.slice
    if not scores:
        return None
    name = next(iter(scores)) if wanted is None else wanted
    built = context.inputs["build_shards"]
    path = samples_path(built.folder, name)
    if not path.is_file():
        path = samples_path(built.folder, test_table(name))
    digest = built.record.outputs[str(path.relative_to(built.folder))]["sha256"]
    score = scores[name]
    return None if score is None else Measured(score, name, digest)


def headline_scores(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Test slice or split -> headline score of the tuned model with its own images, from the scoring step's summary."""
    if "scores" in summary:
        return {name: score["accuracy"] for name, score in summary["scores"].get("stage2", {}).items()}
    found: dict[str, float | None] = {}
    for one in summary["answered"]:
        (score, *_) = one["report"]["scores"].values()
        found.setdefault(one["split"], score["value"])  # the first row of a split is the tuned model as it is
    return found
