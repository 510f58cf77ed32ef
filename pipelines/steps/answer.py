"""Questions of benchmarks, answered and scored: by the adapter a job tuned, or by one of those that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memvp_data.datasets.table import metric_of
from memvp_data.metrics.pairing import read_predictions
from memvp_data.metrics.suite import score
from memvp_data.samples import read_samples
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.image_memory import ImageMode
from memvp_train.inference.predict import answer_all
from memvp_train.inference.prediction_job import PredictionJob
from pipelines.config.benchmarks import AnswerConfig
from pipelines.data.sources import test_table
from pipelines.steps.keys import template_of
from pipelines.workflow.paths import predictions_path, samples_path
from pipelines.workflow.run_folder import write_json
from pipelines.workflow.step import StepContext, StepOutcome

_SHOWN = {"own": "", "none": ", no image", "other": ", image of another question"}


def answer_tests(context: StepContext) -> StepOutcome:
    """Answer the test splits of a tuned task, with the image and without, and score them."""
    config = context.config
    asked = [
        _Asked(config.data.dataset, split, who="tuned", shown=shown)
        for split in config.data.tests
        for shown in config.answers.shown
    ]
    return _answer_all(context, asked, adapter=_tuned(context), template=config.stage.template)


def answer_benchmark(context: StepContext) -> StepOutcome:
    """Answer one benchmark with one adapter, and score it. Without an adapter no image is shown."""
    config, benchmark, who = context.config, context.about["benchmark"], context.about["adapter"]
    adapter = config.adapters[who]
    shown_images = config.answers.shown if adapter is not None else ("none",)
    asked = [_Asked(benchmark, config.benchmarks[benchmark], who=who, shown=shown) for shown in shown_images]
    return _answer_all(context, asked, adapter=adapter, template=template_of(config, benchmark))


@dataclass(frozen=True)
class _Asked:
    """One line of a table of scores: who answers what, seeing which image."""

    benchmark: str
    split: str
    who: str
    shown: ImageMode

    def title(self, *, has_adapter: bool) -> str:
        return f"{self.who}{_SHOWN[self.shown] if has_adapter else ''}"


def _tuned(context: StepContext) -> str:
    return str(context.inputs["tuned"].folder / "adapter")


def _answer_all(context: StepContext, asked: Sequence[_Asked], *, adapter: str | None, template: str) -> StepOutcome:
    tables = context.inputs["build_shards"].folder
    jobs = {
        predictions_path(context.folder, row=one.shown, name=one.split): _job(
            context, samples_path(tables, test_table(one.split)), adapter=adapter, template=template, shown=one.shown
        )
        for one in asked
    }
    counts = context.inputs["build_shards"].record.summary["samples"]
    context.progress(0, sum(counts[test_table(one.split)] for one in asked))
    map_actors, num_actors = context.services.map_actors()
    answer_all(jobs, map_actors=map_actors, num_actors=num_actors, progress=context.progress)
    answered = []
    for one, (path, job) in zip(asked, jobs.items(), strict=True):
        metric = context.config.answers.metric or metric_of(one.benchmark)
        report = score(metric, read_predictions(path), read_samples(job.samples))
        title = one.title(has_adapter=adapter is not None)
        place = str(path.relative_to(context.folder))
        whose = {"benchmark": one.benchmark, "split": one.split, "metric": metric, "row": title}
        answered.append({**whose, "predictions": place, "report": report.as_json()})
    write_json(context.folder / "scores.json", answered)
    return StepOutcome((context.folder / "predictions", context.folder / "scores.json"), {"answered": answered})


def _job(context: StepContext, table: Path, *, adapter: str | None, template: str, shown: ImageMode) -> PredictionJob:
    config, inputs = context.config, context.inputs
    answers: AnswerConfig = config.answers
    stored = inputs.get("extract_features")
    is_live = stored is None and adapter is not None
    return PredictionJob(
        language=config.language,
        adapter=adapter,
        samples=str(table),
        settings=AnswerSettings(
            template=template,
            max_new_tokens=answers.max_new_tokens,
            cue=answers.cue,
            num_beams=answers.num_beams,
            batch_size=answers.batch_size,
        ),
        features=None if stored is None else str(stored.folder / "features"),
        images=str(inputs["build_shards"].folder / "images") if is_live else None,
        vision=config.vision if is_live else None,
        image=shown,
    )
