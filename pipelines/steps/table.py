"""The steps of each kind of job as a table, in order. A new step is a new row."""

from functools import partial

from pipelines.config.benchmarks import ComparisonConfig, FinetuneConfig
from pipelines.config.instruct import JobConfig
from pipelines.data.sources import has_video
from pipelines.steps import keys
from pipelines.workflow.step import Step

_DATA_LIBRARIES = ("numpy", "pillow", "pyarrow")
_MODEL_LIBRARIES = ("torch", "transformers", "safetensors")
_TRAINING_LIBRARIES = (*_MODEL_LIBRARIES, "peft", "deepspeed")
# Whole packages, not single files: a step that is run once too often costs minutes, one too seldom a wrong result.
_MODEL_CODE = ("memvp_core", "memvp_data", "memvp_train")
_EVALUATION = ("pipelines.steps.evaluate", "pipelines.steps.look_inside", "pipelines.evaluation")


def instruct_steps(config: JobConfig) -> tuple[Step, ...]:
    """Two stages, the questions of `data.test` in every state of the model, the registry."""
    return (
        _build(),
        _features(),
        _tune("stage1", title="stage 1: projector + positions"),
        _tune("stage2", title="stage 2: + LoRA", start_from="stage1"),
        Step(
            name="evaluate",
            title="evaluate",
            run=("pipelines.steps.evaluate:evaluate", "pipelines.steps.look_inside:draw_and_weigh"),
            log="pipelines.steps.evaluate:log_ablations",
            code=(*_MODEL_CODE, *_EVALUATION),
            libraries=_TRAINING_LIBRARIES,
            settings=keys.for_evaluate,
            needs=_same("build_shards", "extract_features", "stage1", "stage2"),
        ),
        _register(tuned="stage2", scored="evaluate"),
    )


def finetune_steps(config: FinetuneConfig) -> tuple[Step, ...]:
    """One stage on one benchmark, its official score, the registry. A tower that trains along stores no features."""
    stored = () if keys.trains_tower(config) else (_features(),)
    return (
        _build(),
        *stored,
        _tune("tune", title="tune", with_features=bool(stored)),
        Step(
            name="answers",
            title="answer the test questions",
            run=("pipelines.steps.evaluate:evaluate",),
            log="pipelines.steps.evaluate:log_answers",
            code=(*_MODEL_CODE, *_EVALUATION),
            libraries=_TRAINING_LIBRARIES,
            settings=keys.for_answers,
            needs={**_same("build_shards", *(step.name for step in stored)), "tuned": "tune"},
        ),
        _register(tuned="tune", scored="answers"),
    )


def comparison_steps(config: ComparisonConfig) -> tuple[Step, ...]:
    """For each benchmark its files and features, and the answers of each adapter."""
    steps: list[Step] = []
    is_live = keys.trains_tower(config)
    for benchmark in config.benchmarks:
        steps.append(_build(benchmark))
        if not is_live or has_video(config, benchmark):
            steps.append(_features(benchmark))
        steps += [_answer(benchmark, adapter=adapter, made=steps) for adapter in config.adapters]
    return tuple(steps)


def _build(benchmark: str = "") -> Step:
    return Step(
        name=_named("build_shards", benchmark),
        title=f"build shards {benchmark}".strip(),
        run=("pipelines.steps.data:build_shards",),
        log="pipelines.steps.data:log_build",
        code=("memvp_data", "pipelines.steps.data", "pipelines.data.sources"),
        libraries=_DATA_LIBRARIES,
        settings=partial(keys.for_build_shards, benchmark=benchmark),
        needs={},
        about={"benchmark": benchmark},
    )


def _features(benchmark: str = "") -> Step:
    return Step(
        name=_named("extract_features", benchmark),
        title=f"extract features {benchmark}".strip(),
        run=("pipelines.steps.data:extract_features",),
        log="pipelines.steps.data:log_features",
        code=(*_MODEL_CODE, "pipelines.steps.data"),
        libraries=(*_DATA_LIBRARIES, *_MODEL_LIBRARIES),
        settings=keys.for_extract_features,
        needs={"build_shards": _named("build_shards", benchmark)},
        about={"benchmark": benchmark},
    )


def _tune(stage: str, *, title: str, start_from: str | None = None, with_features: bool = True) -> Step:
    needs = _same("build_shards", *(["extract_features"] if with_features else []))
    return Step(
        name=stage,
        title=title,
        run=("pipelines.steps.tune:tune",),
        log="pipelines.steps.tune:log_stage",
        code=(*_MODEL_CODE, "pipelines.steps.tune"),
        libraries=_TRAINING_LIBRARIES,
        settings=partial(keys.for_stage, stage=stage),
        needs={**needs, **({"start_from": start_from} if start_from else {})},
        about={"stage": stage},
    )


def _answer(benchmark: str, *, adapter: str, made: list[Step]) -> Step:
    names = {step.name for step in made}
    needs = {role: _named(role, benchmark) for role in ("build_shards", "extract_features")}
    return Step(
        name=f"answers/{benchmark}/{adapter}",
        title=f"{adapter} answers {benchmark}",
        run=("pipelines.steps.evaluate:evaluate",),
        log="pipelines.steps.evaluate:log_answers",
        code=(*_MODEL_CODE, *_EVALUATION),
        libraries=_TRAINING_LIBRARIES,
        settings=partial(keys.for_comparison, benchmark=benchmark, adapter=adapter),
        needs={role: name for role, name in needs.items() if name in names},
        about={"benchmark": benchmark, "adapter": adapter},
    )


def _register(*, tuned: str, scored: str) -> Step:
    return Step(
        name="register",
        title="register",
        run=("pipelines.steps.register:register",),
        code=(
            "pipelines.steps.register",
            "pipelines.tracking.gate",
            "pipelines.tracking.model_version",
            "pipelines.serving.mlflow_model",
        ),
        libraries=("mlflow",),
        settings=keys.for_register,
        needs={"tuned": tuned, "scored": scored, **_same("build_shards")},
    )


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _named(step: str, benchmark: str) -> str:
    return f"{step}/{benchmark}" if benchmark else step
