"""The tuning steps. The training is memvp_train's; here its curve is followed for the bar and for MLflow."""

import time

from memvp_data.files.hashing import hash_file
from memvp_train.config import StageConfig, StageRun
from memvp_train.training.metrics_log import METRICS_FILE, MetricsRow, read_metrics
from pipelines.steps.data import context_of
from pipelines.tracking.step_run import StepRun
from pipelines.workflow.paths import samples_path
from pipelines.workflow.run_folder import read_json
from pipelines.workflow.step import StepContext, StepOutcome

_SECONDS_BETWEEN_SENDS = 3.0


def tune(context: StepContext) -> StepOutcome:
    """Train a stage on the samples table of its name, from another stage's adapter if it needs one."""
    from memvp_train.training.stage import run_stage

    context.services.start_ray()
    name = context.about["stage"]
    built = context.inputs["build_shards"]
    stage = context.config.stages[name]
    curve = _Curve(context, total=stage.steps_for(num_samples=built.record.summary["samples"][name]))
    result = run_stage(_stage_run(context, name=name, stage=stage), context.config.launch, on_step=curve.add)
    curve.send(read_metrics(context.folder / METRICS_FILE))
    summary = {
        "trainable_parameters": result.trainable_parameters,
        "final_loss": result.final_loss,
        "steps": result.num_steps,
        "samples": result.num_samples,
        "samples_without_label": result.num_dropped,
        "samples_with_labels_cut": result.num_shortened,
        "checkpoints_put_aside": result.num_quarantined,
    }
    # What later steps read, and nothing that a clock wrote: the digest of the same adapter is always the same.
    return StepOutcome(outputs=(context.folder / "adapter",), summary=summary)


def _stage_run(context: StepContext, *, name: str, stage: StageConfig) -> StageRun:
    """What the stage trains on. Without stored features the tower itself reads the images, if any are shown."""
    config, inputs = context.config, context.inputs
    shown = config.train_with_images
    stored = inputs.get("extract_features")
    is_live = shown and stored is None
    tables = inputs["build_shards"].record.summary["samples"]
    return StageRun(
        language=config.language,
        memvp=config.memvp.to_dict(),
        stage=stage,
        samples=str(samples_path(inputs["build_shards"].folder, name)),
        validation=str(samples_path(inputs["build_shards"].folder, "validation")) if "validation" in tables else None,
        features=str(stored.folder / "features") if shown and stored is not None else None,
        images=str(inputs["build_shards"].folder / "images") if is_live else None,
        vision=config.vision if is_live else None,
        init_adapter=str(inputs["start_from"].folder / "adapter") if "start_from" in inputs else None,
        out=str(context.folder),
    )


def log_stage(run: StepRun) -> None:
    """What was trained on, the curve, the figures, the checkpoints that are kept and the adapter."""
    built, stored = run.inputs["build_shards"], run.inputs.get("extract_features")
    for name in (run.step.record.step, "validation"):
        if name in built.record.summary["samples"]:
            run.log_table(built, name, context=context_of(name))
    if stored is not None:
        run.log_manifest(stored, name="features")
    rows = read_metrics(run.step.folder / METRICS_FILE)
    run.tracker.log_curves(run.id, rows)
    figures = {name: run.summary[name] for name in ("trainable_parameters", "final_loss")}
    run.log_numbers({name: value for name, value in figures.items() if value is not None})
    _log_checkpoints(run, rows)
    digest, step = run.step.record.digest, run.summary["steps"]
    run.log_weights("adapter", step=step, digest=digest, folder="adapter", numbers=_losses(rows, step=step))


def _log_checkpoints(run: StepRun, rows: list[MetricsRow]) -> None:
    """Those that are still kept: training holds on to a few, and the adapter is made of the last."""
    for state in sorted(run.step.folder.glob("*/**/state.json")):
        step = (read_json(state) or {}).get("step")
        if step is None:
            continue
        folder, numbers = str(state.parent.relative_to(run.step.folder)), _losses(rows, step=step)
        run.log_weights(f"step-{step}", step=step, digest=hash_file(state), folder=folder, numbers=numbers)


def _losses(rows: list[MetricsRow], *, step: int) -> dict[str, float]:
    own = [row for row in rows if row["step"] == step]
    return {name: row[name] for row in own for name in ("loss", "validation_loss") if name in row}


class _Curve:
    """Shows each row on the bar; hands rows to MLflow every few seconds, so that a slow server never slows training."""

    def __init__(self, context: StepContext, *, total: int) -> None:
        self._context = context
        self._total = total
        self._waiting: list[MetricsRow] = []
        self._last_sent = time.monotonic()

    def add(self, row: MetricsRow) -> None:
        """One new row, in order; called from the thread that reads metrics.jsonl."""
        self._context.progress(int(row["step"]), self._total)
        self._context.progress.describe(f"loss {row['loss']:.3f}")
        self._waiting.append(row)
        if time.monotonic() - self._last_sent > _SECONDS_BETWEEN_SENDS:
            self.send(self._waiting)
            self._waiting = []
            self._last_sent = time.monotonic()

    def send(self, rows: list[MetricsRow]) -> None:
        """To MLflow, which skips what it has."""
        services = self._context.services
        services.tracker.log_curves(services.run_id, rows)
