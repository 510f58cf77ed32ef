"""The evaluation step of every job: who answers which questions is the job type's choice, the rest is the same.

Instruction tuning asks every ablation every test slice; a tuned benchmark asks its adapter the test splits; a
comparison asks one adapter one benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memvp_data.datasets.table import metric_of
from memvp_train.launch.cores import all_cores
from pipelines.config.benchmarks import ComparisonConfig, FinetuneConfig
from pipelines.config.instruct import JobConfig
from pipelines.data.sources import test_files, test_table
from pipelines.evaluation.model_states import ABLATIONS, shown_state, slices_of
from pipelines.evaluation.questions import Asked, QuestionSet
from pipelines.evaluation.scores import accuracy_of
from pipelines.steps.keys import template_of
from pipelines.tracking.step_run import StepRun, metric_name
from pipelines.workflow.paths import samples_path
from pipelines.workflow.run_folder import write_json
from pipelines.workflow.step import StepContext, StepOutcome

if TYPE_CHECKING:
    from pipelines.evaluation.answer_and_score import Answering


def evaluate(context: StepContext) -> StepOutcome:
    """Predict and score. Answers of an interrupted attempt are kept."""
    from pipelines.evaluation.answer_and_score import answer_and_score

    asked = asked_of(context)
    counts = context.inputs["build_shards"].record.summary["samples"]
    context.progress(0, sum(counts[one.questions.table.stem] for one in asked))
    map_actors, num_actors = context.services.map_actors()
    actors = {"map_actors": map_actors, "num_actors": num_actors, "progress": context.progress}
    with all_cores():
        answered = answer_and_score(asked, answering=_answering(context), folder=context.folder, **actors)
    write_json(context.folder / "scores.json", answered)
    made = {context.folder / Path(one[kind]).parts[0] for one in answered for kind in ("predictions", "resampled")}
    return StepOutcome((*sorted(made), context.folder / "scores.json"), {"answered": answered})


def asked_of(context: StepContext) -> list[Asked]:
    """Which model states answer which question sets, in the order of the report."""
    return _ASKED[type(context.config)](context)


def _asked_ablations(context: StepContext) -> list[Asked]:
    config: JobConfig = context.config
    adapters = {stage: context.inputs[stage].folder / "adapter" for stage in ("stage1", "stage2")}
    slices = tuple(test_files(config.data))
    return [
        Asked(ablation.state(adapters), _questions(context, "", name, table=name, template=config.stage2.template))
        for ablation in ABLATIONS
        for name in slices_of(ablation, slices=slices)
    ]


def _asked_tuned(context: StepContext) -> list[Asked]:
    config: FinetuneConfig = context.config
    adapter = context.inputs["tuned"].folder / "adapter"
    return [
        Asked(
            shown_state("tuned", shown, adapter=adapter),
            _questions(context, config.data.dataset, split, table=test_table(split), template=config.stage.template),
        )
        for split in config.data.tests
        for shown in config.answers.shown
    ]


def _asked_compared(context: StepContext) -> list[Asked]:
    config: ComparisonConfig = context.config
    benchmark, who = context.about["benchmark"], context.about["adapter"]
    path, split = config.adapters[who], config.benchmarks[benchmark]
    adapter = None if path is None else Path(path)
    template = template_of(config, benchmark)
    questions = _questions(context, benchmark, split, table=test_table(split), template=template)
    shown_images = ("none",) if adapter is None else config.answers.shown
    return [Asked(shown_state(who, shown, adapter=adapter), questions) for shown in shown_images]


_ASKED: dict[type, Callable[[StepContext], list[Asked]]] = {
    JobConfig: _asked_ablations,
    FinetuneConfig: _asked_tuned,
    ComparisonConfig: _asked_compared,
}


def _questions(context: StepContext, benchmark: str, split: str, *, table: str, template: str) -> QuestionSet:
    own = "" if isinstance(context.config, JobConfig) else context.config.answers.metric
    metric = own or (metric_of(benchmark) if benchmark else "accuracy")
    path = samples_path(context.inputs["build_shards"].folder, table)
    return QuestionSet(benchmark, split, path, metric, template)


def _answering(context: StepContext) -> Answering:
    from pipelines.evaluation.answer_and_score import Answering

    config, stored = context.config, context.inputs.get("extract_features")
    if isinstance(config, JobConfig):
        answers, search = config.evaluate, {}
    else:
        answers = config.answers
        search = {"num_beams": answers.num_beams, "cue": answers.cue}
    return Answering(
        language=config.language,
        max_new_tokens=answers.max_new_tokens,
        batch_size=answers.batch_size,
        features=None if stored is None else stored.folder / "features",
        images=context.inputs["build_shards"].folder / "images",
        vision=config.vision if stored is None else None,
        **search,
    )


def log_ablations(run: StepRun) -> None:
    """Accuracies by state and slice, of which adapter; the table of all tasks; predictions and pictures."""
    adapters = {one.name: run.inputs[one.stage].record.digest for one in ABLATIONS if one.with_adapter}
    lines: list[dict[str, Any]] = []
    for table in dict.fromkeys(one["table"] for one in run.summary["answered"]):
        run.log_table(run.inputs["build_shards"], table, context="evaluation")
    for one in run.summary["answered"]:
        score = accuracy_of(one["report"])
        number = {f"accuracy/{one['state']}/{one['split']}": score["accuracy"]}
        run.log_numbers(number, of=adapters.get(one["state"], ""))
        lines += [
            {"row": one["state"], "slice": one["split"], "task": task or "-", **part}
            for task, part in {"all": {key: score[key] for key in ("accuracy", "n")}, **score["by_task"]}.items()
        ]
        run.log_file(one["predictions"], folder=str(Path(one["predictions"]).parent))
    if lines:
        run.log_columns("scores.json", {key: [line[key] for line in lines] for key in lines[0]})
    for path in run.summary["figures"]:
        run.log_file(path, folder="figures")


def log_answers(run: StepRun) -> None:
    """Every official score, under its benchmark, split and row; predictions and scores.json."""
    tuned = run.inputs.get("tuned")
    for one in run.summary["answered"]:
        run.log_table(run.inputs["build_shards"], one["table"], context="evaluation")
        place = f"{one['benchmark']}_{one['split']}/{one['row']}"
        found = {f"{place}/{name}": score["value"] for name, score in one["report"]["scores"].items()}
        numbers = {metric_name(name): value for name, value in found.items() if value is not None}
        run.log_numbers(numbers, of=tuned.record.digest if tuned is not None else "")
        run.log_file(one["predictions"], folder=str(Path(one["predictions"]).parent))
    run.log_file("scores.json")
