"""Settings of a stage that do not go together, or not with its model or machine, each refused in one sentence."""

import os
import shutil
from importlib.util import find_spec
from typing import Any

from memvp_core import MemVPModel
from memvp_train.config import LaunchConfig, StageConfig, StageRun, check_batch_split, check_precision
from memvp_train.config.errors import require
from memvp_train.optim.optimizer import check_groups

# Attention of transformers that adds a bias (B, 1, T, T) to its scores, as packed rows need.
_TAKES_BIAS = ("sdpa", "eager")


def check_stage(run: StageRun, launch: LaunchConfig) -> None:
    """Refuse what can be seen without the model."""
    check_batch_split(run.stage, num_workers=launch.num_ranks)
    require(
        (run.validation is None) == (run.stage.validation is None),
        message="a validation table and the stage's validation settings are given together or not at all; "
        f"got table {run.validation} and settings {run.stage.validation}",
    )
    check_precision(launch, run.language)
    _check_4bit(run, launch=launch)
    if run.stage.compile:
        _check_compile(run.stage, launch=launch)


def check_model(run: StageRun, *, model: MemVPModel) -> None:
    """Refuse what does not go with the model; `model` may be without weights."""
    check_groups(model.trainable_state(), stage=run.stage)
    if run.stage.packed_tokens is not None:
        check_packing(run.stage, config=model.config)


def _check_4bit(run: StageRun, *, launch: LaunchConfig) -> None:
    if not run.language.load_in_4bit:
        return
    require(
        find_spec("bitsandbytes") is not None,
        message="language.load_in_4bit needs the package bitsandbytes; pip install bitsandbytes, or take bf16",
    )
    require(
        launch.num_workers == 0 or launch.zero_stage < 3,
        message="language.load_in_4bit does not go with launch.zero_stage 3, which cannot split 4-bit weights; take 2",
    )
    require(
        not run.language.random_init,
        message="language.load_in_4bit needs weights to load, and language.random_init draws them; set one of the two",
    )


def _check_compile(stage: StageConfig, *, launch: LaunchConfig) -> None:
    require(
        launch.num_workers == 0 or launch.zero_stage < 3,
        message="compile does not go with launch.zero_stage 3, which gathers weights by hooks in every layer; take 2",
    )
    compiler = os.environ.get("CXX", "g++")
    require(
        shutil.which(compiler) is not None,
        message=f"compile needs the C++ compiler {compiler}, which is not here; install it, or leave compile out",
    )


def check_packing(stage: StageConfig, *, config: Any) -> None:
    """Refuse packed rows for a language model, by its config, whose attention cannot be kept within samples."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    require(
        not config.is_encoder_decoder,
        message=f"packed_tokens are for causal models and {config.model_type} is an encoder-decoder; take token_budget",
    )
    attention = text._attn_implementation
    require(
        attention in _TAKES_BIAS,
        message=f"packed_tokens need attention that takes a bias ({' or '.join(_TAKES_BIAS)}), this model has "
        f"{attention}; take token_budget",
    )
    window = getattr(text, "sliding_window", None)
    require(
        not window or stage.max_length <= window,
        message=f"packed_tokens with max_length {stage.max_length} would look further than the {window} tokens of this "
        f"model's sliding window; lower max_length to {window}, or take token_budget",
    )
