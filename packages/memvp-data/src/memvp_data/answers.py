"""Training on questions with several right answers: one is drawn at each access, in proportion to its soft score.

So VQAv2 and GQA were trained by VL-PET, whose loss also multiplies each sample by the score of the answer it drew.
"""

from dataclasses import replace

import numpy as np

from memvp_data.order import uniform_draws
from memvp_data.samples import Sample, Turn

Answer = tuple[str | None, float]
"""An answer and its weight; None stands for the answer that the conversation ends with."""


def possible_answers(sample: Sample) -> list[Answer]:
    """What a sample may be answered in training. Scores that sum to 0 leave the empty answer with weight 0."""
    if not sample.answer_weights:
        return [(None, 1.0)]
    pairs = zip(sample.answers, sample.answer_weights, strict=True)
    positive: list[Answer] = [(answer, float(weight)) for answer, weight in pairs if weight > 0]
    return positive or [("", 0.0)]


def with_answer(sample: Sample, answer: str | None) -> Sample:
    """The sample with this answer at its end, in place of the one that is there; None leaves it as it is."""
    if answer is None:
        return sample
    is_answered = bool(sample.turns) and sample.turns[-1].role == "assistant"
    asked = sample.turns[:-1] if is_answered else sample.turns
    return replace(sample, turns=(*asked, Turn("assistant", answer)))


def with_best_answer(sample: Sample) -> Sample:
    """A question with the rightest of its answers at its end, the first among equals; one that has an answer stays."""
    if not sample.answers or sample.turns[-1].role == "assistant":
        return sample
    weights = sample.answer_weights or (1.0,) * len(sample.answers)
    best = max(range(len(sample.answers)), key=lambda place: (weights[place], -place))
    return with_answer(sample, sample.answers[best])


def drawn_answer(sample: Sample, *, seed: int, epoch: int, number: int) -> Answer:
    """The answer that sample `number` of a table is given in an epoch: the same on any machine."""
    answers = possible_answers(sample)
    draw = float(uniform_draws(np.array([number]), seed=seed, epochs=epoch)[0])
    return answers[place_of(draw, weights=[weight for _, weight in answers])]


def place_of(draw: float, *, weights: list[float]) -> int:
    """Which of the weights a number from [0, 1) falls on, when they are laid end to end and scaled to 1."""
    ends = np.cumsum(weights, dtype=np.float64)
    return min(int(np.searchsorted(ends, draw * ends[-1], side="right")), len(weights) - 1)
