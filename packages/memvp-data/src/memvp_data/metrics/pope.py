"""POPE: is there such a thing in the image? F1 of "yes", on three samplings of the questions.

Follows evaluate.py of RUCAIBox/POPE (commit 3df3ba1) and llava/eval/eval_pope.py, which agree. Departs: without any
predicted "yes" (or any labelled one) precision, recall and F1 are 0, where the official script divides by zero; no
rounding; a prediction goes with its question by id, not by its place in the file. Unparsable here is a first sentence
with neither the word yes nor no; the official rule takes it for a yes, and so does this score.
"""

import re
from collections.abc import Sequence

from memvp_data.metrics.pairing import Answered
from memvp_data.metrics.tally import Measure, Tally, Totals, Values, make_tally, ratio

_SPOKEN = re.compile(r"\b(yes|no|not)\b", re.IGNORECASE)


def parse(text: str) -> str:
    """ "no" if a word before the first period is exactly No, no or not; everything else is "yes", also "NO" and ""."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def measure(tp: Values, fp: Values, tn: Values, fn: Values) -> dict[str, Values]:
    """F1, accuracy, precision, recall and the share of predicted yes, 0 to 1, from the four counts."""
    precision, recall = ratio(tp, tp + fp, empty=0), ratio(tp, tp + fn, empty=0)
    everything = tp + fp + tn + fn
    return {
        "f1": ratio(2 * precision * recall, precision + recall, empty=0),
        "accuracy": ratio(tp + tn, everything),
        "precision": precision,
        "recall": recall,
        "yes_ratio": ratio(tp + fp, everything),
    }


def tally(answered: Sequence[Answered]) -> Tally:
    """The mean F1 of the splits (what tables print as POPE), then all measures of each split, in percent."""
    splits = _splits(answered)
    sizes = {split: sum(_split(question) == split for question in answered) for split in splits}
    measures = {"f1, mean of the splits": Measure(lambda totals: _mean_f1(totals, splits), len(answered))}
    for split in splits:
        measures |= {f"{split} {name}": _measure(name, split=split, n=sizes[split]) for name in NAMES}
    return make_tally(
        ((question.image, _counts(question)) for question in answered),
        measures=measures,
        n=len(answered),
        num_unparsable=sum(not _SPOKEN.search(question.text.split(".")[0]) for question in answered),
        notes=_notes(answered, splits=splits),
    )


_CELLS = ("TP", "FP", "TN", "FN")
NAMES = ("f1", "accuracy", "precision", "recall", "yes_ratio")
_ORDER = ("adversarial", "popular", "random")


def _measure(name: str, *, split: str, n: int) -> Measure:
    return Measure(lambda totals: 100 * measure(*_cells(totals, split))[name], n)


def _mean_f1(totals: Totals, splits: Sequence[str]) -> Values:
    scores = [measure(*_cells(totals, split))["f1"] for split in splits]
    return 100 * sum(scores[1:], start=scores[0]) / len(scores)


def _cells(totals: Totals, split: str) -> list[Values]:
    return [totals[f"{split} {cell}"] for cell in _CELLS]


def _split(question: Answered) -> str:
    return question.sample.fields.get("pope_split") or "all"


def _splits(answered: Sequence[Answered]) -> list[str]:
    found = {_split(question) for question in answered}
    return [split for split in _ORDER if split in found] + sorted(found - set(_ORDER))


def _counts(question: Answered) -> dict[str, float]:
    """One of the four cells is 1. A label is "no" or else counts as yes, as in the official script."""
    said_yes, is_yes = parse(question.text) == "yes", question.sample.answers[0] != "no"
    cell = ("T" if said_yes == is_yes else "F") + ("P" if said_yes else "N")
    return {f"{_split(question)} {name}": float(name == cell) for name in _CELLS}


def _notes(answered: Sequence[Answered], *, splits: Sequence[str]) -> tuple[str, ...]:
    said_yes = {_split(question) for question in answered if parse(question.text) == "yes"}
    return tuple(
        f"no predicted yes in {split}: its precision, recall and F1 are 0 here, the official script fails there"
        for split in splits
        if split not in said_yes
    )
