"""TVQA and How2QA: the generated text is the target "a0" ... "a4", letter for letter.

Follows TVQAEvaluator of VL-PET (HenryHZY/VL-PET, commit 7430cad, src/video/tvqa_data.py); on answer indices the same
number as evaluate_tvqa.py and evaluate_how2qa.py of VALUE-Leaderboard/EvaluationTools. Departs: no rounding, no epsilon
in the divisor; by show only where the samples name it.
"""

from collections.abc import Sequence

from memvp_data.metrics.pairing import Answered
from memvp_data.metrics.tally import Mark, Tally, tally_marks

TARGETS = ("a0", "a1", "a2", "a3", "a4")


def tally(answered: Sequence[Answered]) -> Tally:
    """Accuracy over all questions, and by show."""
    return tally_marks(map(_mark, answered))


def _mark(question: Answered) -> Mark:
    show = question.sample.fields.get("show_name")
    groups = (f"show: {show}",) if show else ()
    return Mark(question.image, question.text in question.sample.answers, groups, question.text in TARGETS)
