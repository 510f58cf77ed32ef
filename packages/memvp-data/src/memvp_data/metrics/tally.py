"""What a metric counted, image by image, and its scores as functions of the sums of these counts.

Everything reported follows from it: the value from the sums over all images, its interval from sums over resampled
images (bootstrap.py). A metric therefore needs no interval code of its own, be it a mean, an F1 or BLEU.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Totals = Mapping[str, Values]
"""Name of a count -> its sum, one entry per resample."""


@dataclass(frozen=True)
class Measure:
    """One score."""

    value: Callable[[Totals], Values]
    """From the sums to the score, entry by entry; nan where it is undefined."""
    n: int
    """How many questions (captions, images, ...: whatever is averaged) it stands on."""


@dataclass(frozen=True)
class Tally:
    """Counts per image and the scores made of them."""

    images: tuple[str, ...]
    """In alphabetical order, so that nothing depends on the order of the files."""
    names: tuple[str, ...]
    """The counts."""
    table: Values
    """(images, counts)."""
    measures: Mapping[str, Measure]
    """Name -> score; the first is the one that papers print."""
    n: int
    """Number of predictions."""
    num_unparsable: int
    """Predictions in which the metric found no answer."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""

    def totals(self, weights: NDArray[np.int64]) -> dict[str, Values]:
        """The sums under weights (resamples, images): how often each resample drew each image."""
        sums = weights.astype(np.float64) @ self.table
        return {name: sums[:, place] for place, name in enumerate(self.names)}

    def values(self) -> dict[str, float]:
        """Every score, over all images once."""
        totals = self.totals(np.ones((1, len(self.images)), dtype=np.int64))
        return {name: float(measure.value(totals)[0]) for name, measure in self.measures.items()}


@dataclass(frozen=True)
class Mark:
    """The mark of one question: the currency of every metric that is a mean over questions."""

    image: str
    """Its image."""
    value: float
    """0 (wrong) to 1 (right)."""
    groups: tuple[str, ...] = ()
    """The groups it counts in, beside the whole."""
    parsable: bool = True
    """Whether an answer was found."""


def ratio(numerator: Values, denominator: Values, *, empty: float = np.nan) -> Values:
    """Their quotient, `empty` where there is nothing to divide by."""
    filled = np.full(np.broadcast(numerator, denominator).shape, empty, dtype=np.float64)
    return np.divide(numerator, denominator, out=filled, where=denominator != 0)


def percent_of(part: str, whole: str) -> Callable[[Totals], Values]:
    """A score that is 100 * one count / another."""
    return lambda totals: 100 * ratio(totals[part], totals[whole])


def make_tally(
    counts: Iterable[tuple[str, Mapping[str, float]]],
    *,
    measures: Mapping[str, Measure],
    n: int,
    num_unparsable: int,
    notes: tuple[str, ...] = (),
) -> Tally:
    """Add up (image, counts) pairs per image."""
    sums: dict[str, dict[str, float]] = {}
    for image, row in counts:
        total = sums.setdefault(image, {})
        for name, value in row.items():
            total[name] = total.get(name, 0) + value
    images, names = sorted(sums), sorted({name for row in sums.values() for name in row})
    table = np.array([[sums[image].get(name, 0) for name in names] for image in images], dtype=np.float64)
    return Tally(tuple(images), tuple(names), table, measures, n, num_unparsable, notes)


def tally_marks(
    marks: Iterable[Mark], *, title: str = "accuracy", order: Iterable[str] = (), notes: tuple[str, ...] = ()
) -> Tally:
    """The mean mark in percent, over all questions and over each group; groups named in `order` come first."""
    marks = list(marks)
    sizes: dict[str, int] = {}
    for mark in marks:
        for group in mark.groups:
            sizes[group] = sizes.get(group, 0) + 1
    groups = [group for group in order if group in sizes]
    groups += sorted(sizes.keys() - set(groups))
    measures = {title: Measure(percent_of("right", "asked"), len(marks))}
    measures |= {group: Measure(percent_of(f"right: {group}", f"asked: {group}"), sizes[group]) for group in groups}
    unparsable = sum(not mark.parsable for mark in marks)
    return make_tally(map(_counts, marks), measures=measures, n=len(marks), num_unparsable=unparsable, notes=notes)


def _counts(mark: Mark) -> tuple[str, dict[str, float]]:
    counts = {"right": float(mark.value), "asked": 1.0}
    for group in mark.groups:
        counts |= {f"right: {group}": float(mark.value), f"asked: {group}": 1.0}
    return mark.image, counts
