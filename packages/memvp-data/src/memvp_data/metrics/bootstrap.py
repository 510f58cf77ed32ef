"""Intervals and paired tests by resampling images, not questions: questions about one image share its luck.

Percentile bootstrap, seeded: the same files give the same numbers. Of two predictions files each resample takes the
same images, so what makes an image hard cancels out of the difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memvp_data.metrics.pairing import ScoreError
from memvp_data.metrics.tally import Tally, Values

RESAMPLES = 1000
SEED = 0
_CHUNK = 50  # resamples at a time; at 40,000 images their weights take 16 MB


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """What the number is a mean over; see `Measure.n`."""


@dataclass(frozen=True)
class Difference:
    """One score minus another one's on the same questions, with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided: how often resampling turns the difference around; never below 2 / (resamples + 1)."""


def intervals(tally: Tally, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Every score of a tally with its interval; widened to the value itself where the percentiles leave it out."""
    values, draws = tally.values(), _draws(tally, resamples=resamples, seed=seed)
    return {
        name: Interval(values[name], *_bounds(draws[name], value=values[name]), n=measure.n)
        for name, measure in tally.measures.items()
    }


def differences(tally: Tally, other: Tally, *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Difference]:
    """`tally` minus `other`, score by score. Both must come from the same samples."""
    if tally.images != other.images or list(tally.measures) != list(other.measures):
        raise ScoreError("a paired test needs two predictions files over the same samples; pass one samples table")
    first, second = tally.values(), other.values()
    draws = [_draws(either, resamples=resamples, seed=seed) for either in (tally, other)]
    return {name: _difference(first[name] - second[name], draws[0][name] - draws[1][name]) for name in tally.measures}


def _draws(tally: Tally, *, resamples: int, seed: int) -> dict[str, Values]:
    """Every score on every resample."""
    parts: dict[str, list[Values]] = {name: [] for name in tally.measures}
    for weights in _weights(len(tally.images), resamples=resamples, seed=seed):
        totals = tally.totals(weights)
        for name, measure in tally.measures.items():
            parts[name].append(measure.value(totals))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _weights(num_images: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    if resamples < 1:
        raise ScoreError(f"the bootstrap needs at least one resample, got {resamples}; {RESAMPLES} is usual")
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        rows = range(min(_CHUNK, resamples - start))
        drawn = (generator.integers(0, num_images, size=num_images) for _ in rows)
        yield np.stack([np.bincount(images, minlength=num_images) for images in drawn])


def _bounds(draws: Values, *, value: float) -> tuple[float, float]:
    defined = draws[~np.isnan(draws)]
    if not defined.size:
        return value, value
    low, high = np.quantile(defined, [0.025, 0.975])
    return min(float(low), value), max(float(high), value)


def _difference(value: float, draws: Values) -> Difference:
    low, high = _bounds(draws, value=value)
    defined = np.round(draws[~np.isnan(draws)], 9)  # a difference of rounding errors is none
    turned = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return Difference(value, low, high, p=min(1.0, 2 * (int(turned) + 1) / (len(defined) + 1)))
