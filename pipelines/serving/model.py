"""The registered model, as code (MLflow runs this file when the model is loaded; nothing is unpickled).

Input rows: {"image": file content (bytes), path, or null for no image, "question": text}. Output: one answer per row.
Needs memvp_core, memvp_data and memvp_train installed; the foundation models are loaded from where the job found them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc


class VisualQuestionAnswering(mlflow.pyfunc.PythonModel):
    """Answers (image, question) with the tuned adapter."""

    def load_context(self, context: Any) -> None:
        """Load settings, adapter and foundation models once."""
        from memvp_train.answer import Answerer

        settings = json.loads(Path(context.artifacts["settings"]).read_text(encoding="utf-8"))
        self.answerer = Answerer.load(Path(context.artifacts["adapter"]), settings=settings)

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Answer each row; a row whose image cannot be read raises the error that names it."""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else list(model_input)
        return [self._answer(row) for row in rows]

    def _answer(self, row: Mapping[str, Any]) -> str:
        image = row.get("image")
        source = Path(image) if isinstance(image, str) else image
        return self.answerer.answer(source, question=str(row["question"]))


mlflow.models.set_model(VisualQuestionAnswering())
