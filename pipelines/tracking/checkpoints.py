"""Weights of a job as MLflow's LoggedModels: they stay where they are, MLflow has folder, digest and figures."""

from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import LoggedModelOutput
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from pipelines.console.redaction import redacted
from pipelines.tracking.sending import Sender, metrics_of


class CheckpointSender(Sender):
    """Adds them to a job's line."""

    def log_checkpoint(
        self, run_id: str, *, name: str, step: int, digest: str, folder: Path, numbers: Mapping[str, float]
    ) -> None:
        """A LoggedModel for weights that stay where they are: folder, digest and figures, no copy. Once per run."""

        def action() -> None:
            model_id = self._find_model(run_id, digest=digest)
            if model_id is None:
                model_id = self._create_model(run_id, name=name, step=step, digest=digest, folder=folder)
                # Under names of their own: MLflow shows a model's figures on its run too, where the curve has them.
                own = {f"checkpoint/{name}": value for name, value in numbers.items()}
                self.client.log_batch(run_id, metrics=metrics_of(own, step=step, model_id=model_id))
                # Last, so that one that is READY has everything.
                self.client.finalize_logged_model(model_id, "READY")
            self.ids.remember("models", f"{self.parent_id}/{digest}", model_id)

        self._for_run(run_id, action)

    def _find_model(self, run_id: str, *, digest: str) -> str | None:
        wanted = f"source_run_id = '{run_id}' AND tags.`memvp.digest` = '{digest}'"
        found = self.client.search_logged_models([self.experiment_id], filter_string=wanted)
        return next((model.model_id for model in found if model.status == "READY"), None)

    def _create_model(self, run_id: str, *, name: str, step: int, digest: str, folder: Path) -> str:
        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "memvp.digest": digest, "memvp.folder": redacted(str(folder))}
        model = self.client.create_logged_model(
            self.experiment_id,
            name=name,
            source_run_id=run_id,
            tags=tags,
            params={"step": str(step)},
            model_type="adapter",
        )
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        return model.model_id
