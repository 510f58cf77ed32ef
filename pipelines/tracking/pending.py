"""Models that a killed submission left PENDING, which MLflow itself never ends."""

from collections.abc import Collection

from mlflow import MlflowClient


def delete_pending(client: MlflowClient, *, experiment_id: str, run_ids: Collection[str]) -> None:
    """Of these runs, which no other submission works on now: their steps make them again.

    No version in the registry has such a model: MLflow makes the version of a model that is READY.
    """
    if not run_ids:
        return
    # A filter by status finds none in SQL stores, which compare its number with the word.
    wanted = ", ".join(f"'{run_id}'" for run_id in sorted(run_ids))
    for model in client.search_logged_models([experiment_id], filter_string=f"source_run_id IN ({wanted})"):
        if model.status == "PENDING":
            client.delete_logged_model(model.model_id)
