"""The two tuning steps. The training is memvp_train's; here its curve is followed for the bar and for MLflow."""

from __future__ import annotations

import time

from memvp_train.config import StageConfig
from memvp_train.metrics import Row, read_metrics
from pipelines.paths import METRICS_NAME, samples_path
from pipelines.steps import StepContext, StepOutcome

_SECONDS_BETWEEN_SENDS = 3.0


def tune_stage1(context: StepContext) -> StepOutcome:
    """Projector and position rows, from the captions."""
    return _tune(context, name="stage1", stage=context.config.stage1, start_from=None)


def tune_stage2(context: StepContext) -> StepOutcome:
    """The same parameters and LoRA, from the instructions; starts from the adapter of stage 1."""
    return _tune(context, name="stage2", stage=context.config.stage2, start_from="stage1")


def _tune(context: StepContext, *, name: str, stage: StageConfig, start_from: str | None) -> StepOutcome:
    from memvp_train.config import StageRun
    from memvp_train.stage import run_stage

    context.services.start_ray()
    build = context.inputs["build_shards"]
    config = context.config
    with_images = config.train_with_images
    run = StageRun(
        language=config.language,
        memvp=config.memvp.to_dict(),
        stage=stage,
        samples=str(samples_path(build.folder, name)),
        features=str(context.inputs["extract_features"].folder / "features") if with_images else None,
        init_adapter=str(context.inputs[start_from].folder / "adapter") if start_from else None,
        out=str(context.folder),
    )
    curve = _Curve(context, total=stage.steps_for(num_samples=build.record.summary["samples"][name]))
    result = run_stage(run, config.launch, on_step=curve.add)
    metrics = context.folder / METRICS_NAME
    curve.send(read_metrics(metrics))
    summary = {
        "trainable_parameters": result.trainable_parameters,
        "final_loss": result.final_loss,
        "steps": result.num_steps,
        "samples": result.num_samples,
        "samples_without_label": result.num_dropped,
        "samples_with_labels_cut": result.num_shortened,
    }
    return StepOutcome(outputs=(context.folder / "adapter", metrics), summary=summary)


class _Curve:
    """Shows each row on the bar; hands rows to MLflow every few seconds, so that a slow server never slows training."""

    def __init__(self, context: StepContext, *, total: int) -> None:
        self._context = context
        self._total = total
        self._waiting: list[Row] = []
        self._last_sent = time.monotonic()

    def add(self, row: Row) -> None:
        """One new row, in order; called from the thread that reads metrics.jsonl."""
        self._context.progress(int(row["step"]), self._total)
        self._context.progress.describe(f"loss {row['loss']:.3f}")
        self._waiting.append(row)
        if time.monotonic() - self._last_sent > _SECONDS_BETWEEN_SENDS:
            self.send(self._waiting)
            self._waiting = []
            self._last_sent = time.monotonic()

    def send(self, rows: list[Row]) -> None:
        """To MLflow, which skips what it has."""
        services = self._context.services
        services.tracker.log_curves(services.run_id, rows)
