"""The job's steps as a table, in order. A new step is a new row."""

from __future__ import annotations

from pipelines import step_settings
from pipelines.steps import Step

_DATA_LIBRARIES = ("numpy", "pillow", "pyarrow")
_MODEL_LIBRARIES = ("torch", "transformers", "safetensors")
_TRAINING_LIBRARIES = (*_MODEL_LIBRARIES, "peft", "deepspeed")
# Whole packages, not single files: a step that is run once too often costs minutes, one too seldom a wrong result.
_MODEL_CODE = ("memvp_core", "memvp_data", "memvp_train")

STEPS = (
    Step(
        name="build_shards",
        title="build shards",
        run="pipelines.data_steps:build_shards",
        code=("memvp_data", "pipelines.data_steps"),
        libraries=_DATA_LIBRARIES,
        settings=step_settings.for_build_shards,
        needs=(),
    ),
    Step(
        name="extract_features",
        title="extract features",
        run="pipelines.data_steps:extract_features",
        code=(*_MODEL_CODE, "pipelines.data_steps"),
        libraries=(*_DATA_LIBRARIES, *_MODEL_LIBRARIES),
        settings=step_settings.for_extract_features,
        needs=("build_shards",),
    ),
    Step(
        name="stage1",
        title="stage 1: projector + positions",
        run="pipelines.stage_steps:tune_stage1",
        code=(*_MODEL_CODE, "pipelines.stage_steps"),
        libraries=_TRAINING_LIBRARIES,
        settings=step_settings.for_stage1,
        needs=("build_shards", "extract_features"),
    ),
    Step(
        name="stage2",
        title="stage 2: + LoRA",
        run="pipelines.stage_steps:tune_stage2",
        code=(*_MODEL_CODE, "pipelines.stage_steps"),
        libraries=_TRAINING_LIBRARIES,
        settings=step_settings.for_stage2,
        needs=("build_shards", "extract_features", "stage1"),
    ),
    Step(
        name="evaluate",
        title="evaluate",
        run="pipelines.evaluate_steps:evaluate",
        code=(*_MODEL_CODE, "pipelines.evaluate_steps", "pipelines.rows", "pipelines.retrieval_page", "pipelines.figures"),
        libraries=_TRAINING_LIBRARIES,
        settings=step_settings.for_evaluate,
        needs=("build_shards", "extract_features", "stage1", "stage2"),
    ),
    Step(
        name="register",
        title="register",
        run="pipelines.register:register",
        code=("pipelines.register", "pipelines.serving.model"),
        libraries=("mlflow",),
        settings=step_settings.for_register,
        needs=("stage2", "evaluate"),
    ),
)
