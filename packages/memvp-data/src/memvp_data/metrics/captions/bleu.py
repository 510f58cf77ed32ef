"""BLEU-1 to BLEU-4 of tokenised captions over a corpus, from counts that add up image by image.

Follows bleu_scorer.py of pycocoevalcap 1.2 (reference length: the closest, the shorter one of a tie). Departs nowhere.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from memvp_data.metrics.captions.cider import Gram, ngrams
from memvp_data.metrics.tally import Totals, Values

MAX_N = 4
_TINY, _SMALL = 1e-15, 1e-9  # keep the official divisions from failing


def counts(caption: str, references: Sequence[str]) -> dict[str, float]:
    """What one caption adds: clipped matches and guesses for each n, its length and the reference length."""
    ours, length = ngrams(caption), len(caption.split())
    most = Counter[Gram]()
    for reference in references:
        most |= ngrams(reference)
    matched = Counter[int]()
    for gram, count in (ours & most).items():
        matched[len(gram)] += count
    _, closest = min((abs(size - length), size) for size in (len(reference.split()) for reference in references))
    row = {"bleu length": float(length), "bleu reference length": float(closest)}
    for n in range(1, MAX_N + 1):
        row |= {f"bleu matches {n}": float(matched[n]), f"bleu guesses {n}": float(max(0, length - n + 1))}
    return row


def bleu(totals: Totals, *, n: int) -> Values:
    """BLEU-n, 0 to 1, from the sums of `counts`."""
    product = np.ones_like(totals["bleu length"])
    for size in range(1, n + 1):
        product = product * (totals[f"bleu matches {size}"] + _TINY) / (totals[f"bleu guesses {size}"] + _SMALL)
    shortness = (totals["bleu length"] + _TINY) / (totals["bleu reference length"] + _SMALL)
    return product ** (1 / n) * np.where(shortness < 1, np.exp(1 - 1 / shortness), 1.0)
