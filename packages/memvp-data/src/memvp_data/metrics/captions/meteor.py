"""METEOR of tokenised captions, from statistics that add up image by image.

Follows meteor.py of pycocoevalcap 1.2: the matching is done by its jar (meteor-1.5, English, -norm), which needs Java.
The score is computed here from the jar's statistics with its own formula, so that it can be resampled. Departs nowhere:
scores of images and of the corpus equal the jar's own.
"""

from collections.abc import Sequence

import numpy as np

from memvp_data.metrics.captions.java_tools import METEOR, find_jar, run_java, why_missing
from memvp_data.metrics.pairing import ScoreError
from memvp_data.metrics.tally import Totals, Values, ratio

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of matches by exact word, stem, synonym and paraphrase
_STATISTICS = (
    *("length", "reference length", "function words", "reference function words"),
    *(
        f"{kind} matches {by}"
        for by in range(len(_WEIGHTS))
        for kind in ("content", "reference content", "function", "reference function")
    ),
    *("chunks", "matched words", "matched reference words"),
)


def counts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """What each caption adds. Raises `ScoreError` without Java or without the extra `captions`."""
    jar = find_jar(METEOR)
    if jar is None:
        raise ScoreError(f"METEOR cannot run: {why_missing()}")
    lines = [_line(caption, group) for caption, group in zip(captions, references, strict=True)]
    answer = run_java(["-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"], lines=lines)
    if len(answer) != len(lines):
        raise ScoreError(f"METEOR gave {len(answer)} lines for {len(lines)} captions; check the jar {jar}")
    return [_row(line) for line in answer]


def meteor(totals: Totals) -> Values:
    """METEOR, 0 to 1, from the sums of `counts`."""
    precision = ratio(_matches(totals, ""), _length(totals, ""), empty=0)
    recall = ratio(_matches(totals, "reference "), _length(totals, "reference "), empty=0)
    mean = ratio(precision * recall, (1 - _ALPHA) * recall + _ALPHA * precision, empty=0)
    matched = (totals["meteor matched words"] + totals["meteor matched reference words"]) / 2
    return mean * (1 - _GAMMA * ratio(totals["meteor chunks"], matched, empty=0) ** _BETA)


def _matches(totals: Totals, side: str) -> Values:
    parts = [
        weight
        * (
            _DELTA * totals[f"meteor {side}content matches {by}"]
            + (1 - _DELTA) * totals[f"meteor {side}function matches {by}"]
        )
        for by, weight in enumerate(_WEIGHTS)
    ]
    return np.sum(parts, axis=0)


def _length(totals: Totals, side: str) -> Values:
    function_words = totals[f"meteor {side}function words"]
    return _DELTA * (totals[f"meteor {side}length"] - function_words) + (1 - _DELTA) * function_words


def _line(caption: str, references: Sequence[str]) -> str:
    caption = caption.replace("|||", "").replace("  ", " ")
    return " ||| ".join(["SCORE", *references, caption])


def _row(line: str) -> dict[str, float]:
    numbers = [float(number) for number in line.split()]
    if len(numbers) != len(_STATISTICS):
        raise ScoreError(
            f"METEOR answered {line[:80]!r} instead of {len(_STATISTICS)} numbers; check that its jar runs"
        )
    row = dict(zip(_STATISTICS, numbers, strict=True))
    is_copy = row["matched words"] == row["length"] and row["matched reference words"] == row["reference length"]
    if is_copy and row["chunks"] == 1:
        row["chunks"] = 0.0  # a caption that is its reference word for word has no penalty
    return {f"meteor {name}": value for name, value in row.items()}
