"""ROUGE-L of a tokenised caption: how long a subsequence it shares with its references.

Follows rouge.py of pycocoevalcap 1.2, where the best precision and the best recall may come from different references.
Departs nowhere; the subsequence is found bit-parallel, so that long captions stay cheap.
"""

from collections.abc import Sequence

_BETA_SQUARED = 1.2**2


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """0 to 1."""
    ours = caption.split(" ")
    theirs = [reference.split(" ") for reference in references]
    shared = [longest_common_subsequence(ours, reference) for reference in theirs]
    precision = max(length / len(ours) for length in shared)
    recall = max(length / len(reference) for length, reference in zip(shared, theirs, strict=True))
    if not (precision and recall):
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length. Bit i of `row` is 0 where the length grows at word i of `second` (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << place
    full = row = (1 << len(second)) - 1
    for word in first:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(second) - row.bit_count()
