"""One evaluation: model states x question sets -> predictions files -> scores. Each file is scored once.

What a job asks of whom it decides itself (steps/evaluate.py); what is made of the scores is the reports' affair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.metrics.pairing import read_predictions
from memvp_data.metrics.suite import score_once
from memvp_data.samples import read_samples
from memvp_train.config import LanguageModelConfig, VisionConfig
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.predict import answer_all
from memvp_train.inference.prediction_job import PredictionJob
from pipelines.evaluation.questions import Asked


@dataclass(frozen=True)
class Answering:
    """What all predictions of an evaluation share."""

    language: LanguageModelConfig
    """the language model"""
    max_new_tokens: int
    """longest answer, tokens"""
    batch_size: int
    """questions per forward"""
    num_beams: int = 1
    """beams of the search"""
    cue: str = ""
    """how each answer is known to begin"""
    features: Path | None = None
    """folder of feature shards"""
    images: Path | None = None
    """folder of image shards, for a tower that trains along"""
    vision: VisionConfig | None = None
    """that tower"""

    def job(self, asked: Asked) -> PredictionJob:
        """The predictions of one state on one question set."""
        state, questions = asked.state, asked.questions
        is_live = self.features is None and state.adapter is not None and self.vision is not None
        return PredictionJob(
            language=self.language,
            adapter=None if state.adapter is None else str(state.adapter),
            samples=str(questions.table),
            settings=AnswerSettings(
                template=questions.template,
                max_new_tokens=self.max_new_tokens,
                cue=self.cue,
                num_beams=self.num_beams,
                batch_size=self.batch_size,
            ),
            features=None if self.features is None or state.adapter is None else str(self.features),
            images=str(self.images) if is_live else None,
            vision=self.vision if is_live else None,
            image=state.image,
        )


def answer_and_score(
    asked: Sequence[Asked],
    *,
    answering: Answering,
    folder: Path,
    map_actors: Callable[..., Any],
    num_actors: int,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Write the predictions file of each below `folder`, keeping those of an interrupted attempt, and score it.

    Returns an entry each as plain JSON: what was asked of whom, the report, and where predictions and resamples lie.
    """
    # States of one adapter side by side: then it is loaded once.
    ordered = sorted(asked, key=lambda one: str(one.state.adapter or ""))
    jobs = {folder / one.file("predictions", ".jsonl"): answering.job(one) for one in ordered}
    for path in jobs:
        path.parent.mkdir(parents=True, exist_ok=True)
    answer_all(jobs, map_actors=map_actors, num_actors=num_actors, progress=progress)
    return score_answers(asked, folder=folder)


def score_answers(asked: Sequence[Asked], *, folder: Path) -> list[dict[str, Any]]:
    """Score each predictions file, once."""
    samples = {one.questions.table: list(read_samples(one.questions.table)) for one in asked}
    return [_scored(one, samples=samples[one.questions.table], folder=folder) for one in asked]


def _scored(one: Asked, *, samples: Sequence[Any], folder: Path) -> dict[str, Any]:
    questions, predictions = one.questions, one.file("predictions", ".jsonl")
    report, draws = score_once(questions.metric, read_predictions(folder / predictions), samples)
    resampled = one.file("resampled", ".safetensors")
    (folder / resampled).parent.mkdir(parents=True, exist_ok=True)
    draws.write(folder / resampled)
    return {
        "benchmark": questions.benchmark,
        "split": questions.split,
        "table": questions.table.stem,
        "metric": questions.metric,
        "state": one.state.name,
        "row": one.state.title,
        "predictions": predictions,
        "resampled": resampled,
        "report": report.as_json(),
    }
