"""Everything before the workers of a stage start: what cannot work is refused, and samples become tokens, once."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memvp_data.dataloader.loader import check_tokens
from memvp_train.checkpoints.disk import check_room
from memvp_train.config import LaunchConfig, StageRun
from memvp_train.methods.memvp import blank_model
from memvp_train.models.language import decoder_start_token
from memvp_train.optim.schedules import base_rate_warning, warmup_steps
from memvp_train.training.checks import check_model, check_stage
from memvp_train.training.image_checks import check_stage_images
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.token_cache import encoded_table


def prepare_stage(
    run: StageRun,
    launch: LaunchConfig,
    *,
    settings: dict[str, Any],
    on_sample: Callable[[int], None] = lambda done: None,
) -> WorkerPlan:
    """Check all that can be checked without training, and tokenise the samples.

    `run` and `settings` are as identity.py gives them. `on_sample` gets the number of samples tokenised so far.
    """
    if warning := base_rate_warning(run.stage):
        warnings.warn(warning, stacklevel=2)
    check_stage(run, launch)
    model = blank_model(run)
    check_model(run, model=model)
    check_room(Path(run.out), num_parameters=model.num_trainable_parameters())
    start_token = decoder_start_token(run.language)
    how = {"settings": settings, "encoder_decoder": start_token is not None}
    table = encoded_table(run, of="samples", on_sample=on_sample, **how)
    check_tokens(table, token_budget=run.stage.token_budget, packed_tokens=run.stage.packed_tokens)
    tables = {run.samples: table}
    if run.validation is not None:
        tables[run.validation] = encoded_table(run, of="validation", **how)
    check_stage_images(run, tables)
    num_steps = run.stage.steps_for(num_samples=len(table))
    return WorkerPlan(
        run=run,
        launch=launch,
        settings=settings,
        counts=table.counts,
        samples_key=table.key,
        validation_key=None if run.validation is None else tables[run.validation].key,
        decoder_start_token_id=start_token,
        num_steps=num_steps,
        num_warmup_steps=warmup_steps(run.stage, num_steps=num_steps, num_samples=len(table)),
    )
