"""Question sets, and what is asked of whom: one model state and one question set make one predictions file."""

from dataclasses import dataclass
from pathlib import Path

from memvp_data.metrics.pairing import read_predictions
from pipelines.evaluation.model_states import ModelState


@dataclass(frozen=True)
class QuestionSet:
    """A samples table, how its questions are put and how answers are scored."""

    benchmark: str
    """name in memvp_data's table of datasets; "" for the job's own questions"""
    split: str
    """test slice or split"""
    table: Path
    """samples table"""
    metric: str
    """name of a metric of memvp_data"""
    template: str
    """how a question is put"""


@dataclass(frozen=True)
class Asked:
    """A model state that answers a question set."""

    state: ModelState
    questions: QuestionSet

    def file(self, folder: str, suffix: str) -> str:
        """A file about it, below the step's folder: predictions/<state>/<split>.jsonl and the like."""
        return f"{folder}/{self.state.name}/{self.questions.split}{suffix}"


def answer_texts(predictions: Path) -> dict[str, str]:
    """Question id -> answer, of a predictions file."""
    return {str(row["question_id"]): str(row["text"]).strip() for row in read_predictions(predictions)}
