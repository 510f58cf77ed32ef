"""Evaluation during training: scores of a validation table, the best step so far, and when to stop.

A sample counts as right if each of its label tokens is the model's first choice given the ones before it. Greedy
decoding says exactly the labels then, and only then: at the first wrong choice it leaves them for good. So this is the
exact match of generated answers without generating any, and ranks that wait for each other in every layer (ZeRO-3) make
equally many forward passes, however long an answer would have become.
"""

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from memvp_data.dataloader.batch import Batch
from memvp_train.checkpoints.state import DamageError, FolderCheckpoints, TrainingState, newest_first, read_state
from memvp_train.config import ValidationConfig
from memvp_train.engines.local import Engine
from memvp_train.training.loss import IGNORED, model_inputs
from memvp_train.training.metrics_log import MetricsRow

BEST_FOLDER = "best"
# The best so far as numbers of a checkpoint.
BEST_VALUE, BEST_STEP, WITHOUT_GAIN, STOPPED = "best_value", "best_step", "evaluations_without_gain", "stopped"


@dataclass(frozen=True)
class Scores:
    """What one evaluation found."""

    loss: float
    """Mean of -log p per label token, each counting what it counts in training (VQA's soft scores)."""
    accuracy: float
    """Share of samples whose every label token is the model's first choice."""


def evaluate(engine: Engine, batches: Iterable[tuple[Batch, Tensor]]) -> Scores:
    """Scores of a whole table, the same on every rank; the model is back in training mode afterwards.

    `batches` are this rank's share, each with a (B,) bool of the rows that count: `ValidationBatches`.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=engine.device)
    engine.model.eval()
    with torch.no_grad():
        for batch, counted in batches:
            sums += _sums(engine, batch, counted=counted.to(engine.device))
    engine.model.train()
    loss, weight, right, samples = engine.sum_over_ranks(sums).tolist()
    return Scores(loss / weight if weight else math.nan, right / samples)


def _sums(engine: Engine, batch: Batch, *, counted: Tensor) -> Tensor:
    """(4,): weighted loss, weights, samples that are right, samples."""
    logits = engine.model(**model_inputs(batch, device=engine.device, dtype=engine.dtype)).logits
    labels = batch.labels.to(engine.device)
    weights = torch.ones(labels.shape, device=engine.device)
    if batch.label_weights is not None:
        weights = batch.label_weights.to(engine.device)
    if batch.decoder_input_ids is None:
        # A causal model's logits are about the token after theirs.
        logits, labels, weights = logits[:, :-1], labels[:, 1:], weights[:, 1:]
    kept = labels != IGNORED
    right = ((logits.argmax(dim=-1) == labels) | ~kept).all(dim=1) & counted
    weights = (weights * counted[:, None])[kept]
    losses = F.cross_entropy(logits[kept].float(), labels[kept], reduction="none")
    return torch.stack([(losses * weights).sum(), weights.sum(), right.sum(), counted.sum()]).double()


class Validation:
    """The evaluations of a stage. Every rank calls every method at the same steps and comes to the same end."""

    def __init__(
        self,
        batches: Iterable[tuple[Batch, Tensor]],
        *,
        config: ValidationConfig,
        folder: Path,
        numbers: Mapping[str, float],
    ) -> None:
        """`folder` is the stage's own. `numbers` are those of the checkpoint that training continues from, or none."""
        self._batches, self._config = batches, config
        self._kept = FolderCheckpoints(folder / BEST_FOLDER, keep=2)
        self._folder = folder / BEST_FOLDER
        self._best = numbers.get(BEST_VALUE)
        self._best_step, self._without_gain = int(numbers.get(BEST_STEP, 0)), int(numbers.get(WITHOUT_GAIN, 0))

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Whether the step that was just made (from 1) is evaluated."""
        return is_last or step % self._config.every == 0

    def run(self, engine: Engine, *, step: int) -> MetricsRow:
        """Evaluate now; gives what the step's row of the metrics says of it."""
        scores = evaluate(engine, self._batches)
        value = getattr(scores, self._config.metric)
        sign = -1 if self._config.metric == "loss" else 1
        if self._best is None or sign * value > sign * self._best:
            self._best, self._best_step, self._without_gain = value, step, 0
        else:
            self._without_gain += 1
        return {"validation_loss": scores.loss, "validation_accuracy": scores.accuracy}

    def is_best(self, step: int) -> bool:
        """Whether no step was better than this one."""
        return step == self._best_step

    @property
    def ends(self) -> bool:
        """Whether patience is at its end."""
        patience = self._config.patience
        return patience is not None and self._without_gain >= patience

    def numbers(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        if self._best is None:
            return {}
        values = {BEST_VALUE: self._best, BEST_STEP: self._best_step, WITHOUT_GAIN: self._without_gain}
        return {**values, STOPPED: float(self.ends)}

    def keep(self, state: TrainingState) -> None:
        """Rank 0: keep the best state, beside the checkpoints that come and go."""
        self._kept.commit(state)

    def forget_after(self, step: int) -> None:
        """Rank 0: training continues from this step; what was best later is found again."""
        for folder in newest_first(self._folder):
            if int(folder.name.removeprefix("step-")) > step:
                shutil.rmtree(folder)


def has_stopped(state: TrainingState) -> bool:
    """Whether training ended at this state because patience was at its end."""
    return bool(state.numbers.get(STOPPED, 0))


def best_state(state: TrainingState, *, folder: Path) -> TrainingState:
    """The best state of a stage that ended with `state`. Raises `DamageError` if it is not as it was written."""
    step = int(state.numbers[BEST_STEP])
    path = folder / BEST_FOLDER / f"step-{step:09d}"
    try:
        return read_state(path)
    except DamageError as error:
        raise DamageError(
            f"{error}; take the last state with validation.keep_best false, or remove {folder} and train again"
        ) from error
