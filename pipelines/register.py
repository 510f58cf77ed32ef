"""The last step: the tuned adapter becomes a version in the model registry, with the alias champion."""

from __future__ import annotations

from pathlib import Path

from pipelines.step_settings import serving_settings
from pipelines.steps import StepContext, StepOutcome
from pipelines.storage import write_json

MODEL_FILE = Path(__file__).parent / "serving" / "model.py"
# Named without versions: the registered model runs wherever these packages do; the tested set is constraints.txt.
_REQUIREMENTS = ("memvp-core", "memvp-data", "memvp-train", "mlflow", "torch", "transformers", "peft", "safetensors")


def register(context: StepContext) -> StepOutcome:
    """Log the models-from-code file with the adapter, register it, point champion at it."""
    from pipelines.tracking import register_model

    settings_path = context.folder / "serving.json"
    write_json(settings_path, serving_settings(context.config))
    tuned = context.inputs["stage2"]
    registered = register_model(
        context.services.tracker,
        context.services.run_id,
        name=context.config.tracking.registered_model,
        model_file=MODEL_FILE,
        artifacts={"adapter": tuned.folder / "adapter", "settings": settings_path},
        requirements=_REQUIREMENTS,
        metadata={"memvp_job": context.config.name, "adapter_digest": tuned.record.digest},
    )
    context.progress(1, 1)
    return StepOutcome(outputs=(settings_path,), summary=registered)
