"""GQA accuracy: the predicted string is the answer, letter for letter.

Follows eval.py of GQA as redistributed by Video-LLaVA (PKU-YuanGroup/Video-LLaVA, commit 984e65b). Departs: only
accuracy (the other numbers need files that GQA 1.2 does not ship), no rounding, and "is in the samples" stands for
`isBalanced`. Variant `llava`: predictions first go through scripts/convert_gqa_for_eval.py of LLaVA, which lower-cases
and drops final periods.
"""

from collections.abc import Callable, Sequence

from memvp_data.metrics.pairing import Answered
from memvp_data.metrics.tally import Mark, Tally, tally_marks


def llava_postprocess(text: str) -> str:
    """ "Left.." is "left"."""
    return text.rstrip(".").lower()


def as_it_stands(text: str) -> str:
    """The official script changes nothing."""
    return text


def tally(answered: Sequence[Answered], *, postprocess: Callable[[str], str] = as_it_stands) -> Tally:
    """Accuracy over all questions, binary (every structural type but query), open (query), and by type."""
    return tally_marks((_mark(question, postprocess=postprocess) for question in answered), order=("binary", "open"))


def _mark(question: Answered, *, postprocess: Callable[[str], str]) -> Mark:
    text = postprocess(question.text)
    groups, fields = [], question.sample.fields
    if structural := fields.get("structural"):
        groups += ["open" if structural == "query" else "binary", f"structural: {structural}"]
    if semantic := fields.get("semantic"):
        groups.append(f"semantic: {semantic}")
    return Mark(question.image, text in question.sample.answers, tuple(groups), parsable=bool(text.strip()))
