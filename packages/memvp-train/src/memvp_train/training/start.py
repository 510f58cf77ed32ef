"""Before the first step: the loss of its batch with the memory and without, and a retrieval scale that does no harm.

A memory whose scales suit another model makes a pretrained one answer at random before anything is learnt. It is said,
with the scale that would be harmless; with `retrieval_scale: auto` that scale is taken. What was found is kept in every
checkpoint and stands in the first row of the metrics.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from memvp_core import MemVPModel
from memvp_core.scales import harmless_scale, is_harmful
from memvp_data.dataloader.batch import Batch
from memvp_train.config import ConfigError
from memvp_train.engines.local import Engine
from memvp_train.training.loss import micro_batch_loss

WITH, WITHOUT = "loss_with_memory", "loss_without_memory"
SCALE, HARMLESS = "retrieval_scale", "harmless_retrieval_scale"
_NAMES = (WITH, WITHOUT, SCALE, HARMLESS)
StartNumbers = Mapping[str, float]
"""WITH and WITHOUT; SCALE where it was found here; HARMLESS where that of a new memory does harm, 0 for none."""


def look_before_training(
    engine: Engine, micro_batches: Iterable[Batch], *, is_new: bool, finds_scale: bool
) -> StartNumbers:
    """Compare, and with `finds_scale` put a scale in place that does no harm.

    `micro_batches` are this rank's share of the first step, gone through several times. Of a memory that is not new,
    harm is no fault of its scale: captions it has learnt do not answer questions yet. Every rank calls it and comes to
    the same numbers; the model is back in training mode afterwards. Raises `ConfigError` if no scale can be found.
    """
    model = _memvp_model(engine)
    without = _loss(engine, micro_batches, factor=0.0)
    if is_new and finds_scale:
        scale = _found_scale(engine, micro_batches, without=without)
        model.set_retrieval_scale(scale)
        return {WITHOUT: without, WITH: _loss(engine, micro_batches), SCALE: scale}
    found = {WITHOUT: without, WITH: _loss(engine, micro_batches)}
    if is_new and is_harmful(found[WITH], without=without):
        found[HARMLESS] = _harmless_scale(engine, micro_batches, without=without)
    return found


def harm_sentence(numbers: StartNumbers, memvp: Mapping[str, Any]) -> str | None:
    """What to tell whoever trains with these settings of a memory; None if it does no harm."""
    if HARMLESS not in numbers:
        return None
    scale = numbers[HARMLESS]
    remedy = (
        f'retrieval_scale {scale:g} or less would be harmless; "auto" finds it, and retrieval_gate begins at 0'
        if scale
        else "no retrieval_scale would be harmless: check the features, or lower visual_scale"
    )
    return (
        f"before training the memory makes the loss of the first batch {numbers[WITH]:.3f}, and without it that is "
        f"{numbers[WITHOUT]:.3f} ({_ratio(numbers)}retrieval_scale "
        f"{memvp['retrieval_scale']:g}, visual_scale {memvp['visual_scale']:g}): {remedy}"
    )


def _ratio(numbers: StartNumbers) -> str:
    """A model that is always right has no ratio."""
    return f"{numbers[WITH] / numbers[WITHOUT]:.2f} times as much; " if numbers[WITHOUT] else ""


def cause_in_memory(numbers: StartNumbers) -> str | None:
    """Why a first step is not finite, and what to do, where the memory was to blame before it."""
    if HARMLESS not in numbers:
        return None
    remedy = (
        'lower memvp.retrieval_scale, or set it to "auto"'
        if numbers[HARMLESS]
        else "look at the features of these samples, or lower memvp.visual_scale"
    )
    return (
        f"the untrained memory made the loss {numbers[WITH]:.3f} already, and it is {numbers[WITHOUT]:.3f} without: "
        f"{remedy}"
    )


def kept_numbers(numbers: StartNumbers) -> StartNumbers:
    """Those of a checkpoint, or of a row of the metrics, that were found before the first step."""
    return {name: numbers[name] for name in _NAMES if name in numbers}


def restore_scale(model: MemVPModel, numbers: StartNumbers) -> None:
    """Give a model that was built again the scale that was found before the first step, if one was."""
    if SCALE in numbers:
        model.set_retrieval_scale(numbers[SCALE])


def _memvp_model(engine: Engine) -> MemVPModel:
    # DeepSpeed wraps the model.
    model: Any = engine.model
    return model if isinstance(model, MemVPModel) else model.module


def _loss(engine: Engine, micro_batches: Iterable[Batch], *, factor: float = 1.0) -> float:
    """Mean per label token of the whole step, with a factor on what the memory returns and no dropout."""
    engine.model.eval()
    total = torch.zeros(1, dtype=torch.float64, device=engine.device)
    with torch.no_grad(), _memvp_model(engine).injection.scaled(factor):
        for batch in micro_batches:
            total += micro_batch_loss(engine.model, batch, device=engine.device, dtype=engine.dtype).double()
    engine.model.train()
    return float(engine.sum_over_ranks(total))


def _found_scale(engine: Engine, micro_batches: Iterable[Batch], *, without: float) -> float:
    try:
        return harmless_scale(lambda scale: _loss(engine, micro_batches, factor=scale), without=without)
    except ValueError as error:
        raise ConfigError(f'memvp.retrieval_scale "auto" found none: {error}') from error


def _harmless_scale(engine: Engine, micro_batches: Iterable[Batch], *, without: float) -> float:
    present = float(_memvp_model(engine).memvp_config.retrieval_scale)
    try:
        return harmless_scale(
            lambda scale: _loss(engine, micro_batches, factor=scale / present), start=present, without=without
        )
    except ValueError:
        return 0.0
