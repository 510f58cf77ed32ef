"""SQA-I: ScienceQA as LLaVA evaluates it, on the questions with an image.

Follows llava/eval/eval_science_qa.py (haotian-liu/LLaVA, commit c121f04). Departs: "with an image" is a field of the
sample, not the placeholder in a prompt that was written down; a missing prediction is an error, not a wrong answer
among the questions without image; no rounding.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from memvp_data.metrics.pairing import Answered
from memvp_data.metrics.scienceqa import LETTERS, index_of
from memvp_data.metrics.tally import Mark, Tally, tally_marks

_IMAGE = "questions with an image"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def parse(text: str) -> str | None:
    """ "B", or a text of three or more characters that begins "B. ", or the only "The answer is B."; else None."""
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    letters = _SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None


def tally(answered: Sequence[Answered]) -> Tally:
    """Accuracy on the questions with an image (what tables print as SQA), and on all."""
    whole = tally_marks(map(_mark, answered), title="all questions", order=(_IMAGE,))
    order = [name for name in (_IMAGE, "all questions") if name in whole.measures]
    return replace(whole, measures={name: whole.measures[name] for name in order})


def _mark(question: Answered) -> Mark:
    place = index_of(parse(question.text), num_choices=len(question.choices()))
    right = place >= 0 and LETTERS[place] == question.sample.answers[0]
    groups = (_IMAGE,) if question.field("has_image") == "true" else ()
    return Mark(question.image, right, groups, parsable=place >= 0)
