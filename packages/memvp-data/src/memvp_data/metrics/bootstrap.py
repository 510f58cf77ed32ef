"""Intervals and paired tests by resampling images, not questions: questions about one image share its luck.

Percentile bootstrap, seeded: the same files give the same numbers. Of two predictions files each resample takes the
same images, so what makes an image hard cancels out of the difference. `Draws` is what both are made of; kept in a
file, it lets predictions be compared later that were scored once.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memvp_data.files.atomic import atomic_write
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


@dataclass(frozen=True)
class Draws:
    """Every score of one predictions file, and its value on every resample of the images."""

    images: str
    """SHA-256 of the images' names: only draws of the same images are compared."""
    seed: int
    """Of the resamples."""
    values: dict[str, float]
    """Over all images once."""
    resampled: dict[str, Values]
    """One entry per resample."""

    def write(self, path: Path) -> None:
        """As a safetensors file."""
        metadata = {"images": self.images, "seed": str(self.seed), "values": json.dumps(self.values)}
        with atomic_write(path) as file:
            file.write(save(self.resampled, metadata=metadata))

    @classmethod
    def read(cls, path: Path) -> "Draws":
        """The inverse of `write`. Raises `ScoreError` for anything else."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                found, names = file.metadata(), file.keys()
                resampled = {name: file.get_tensor(name) for name in names}
                values = json.loads(found["values"])
                return cls(found["images"], int(found["seed"]), values, {name: resampled[name] for name in values})
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ScoreError(
                f"{path} is not a file of resampled scores ({error}); score the predictions again"
            ) from None


def draw(tally: Tally, *, resamples: int = RESAMPLES, seed: int = SEED) -> Draws:
    """Every score on every resample."""
    parts: dict[str, list[Values]] = {name: [] for name in tally.measures}
    for weights in _weights(len(tally.images), resamples=resamples, seed=seed):
        totals = tally.totals(weights)
        for name, measure in tally.measures.items():
            parts[name].append(measure.value(totals))
    images = hashlib.sha256("\0".join(tally.images).encode()).hexdigest()
    return Draws(images, seed, tally.values(), {name: np.concatenate(values) for name, values in parts.items()})


def intervals(tally: Tally, draws: Draws) -> dict[str, Interval]:
    """Every score of a tally with its interval; widened to the value itself where the percentiles leave it out."""
    values = draws.values
    return {
        name: Interval(values[name], *_bounds(draws.resampled[name], value=values[name]), n=measure.n)
        for name, measure in tally.measures.items()
    }


def differences(first: Draws, second: Draws) -> dict[str, Difference]:
    """`first` minus `second`, score by score. Both must come from the same samples and resamples."""
    names, shapes = list(first.resampled), {name: found.shape for name, found in first.resampled.items()}
    is_paired = (first.images, first.seed) == (second.images, second.seed) and names == list(second.resampled)
    if not is_paired or any(second.resampled[name].shape != shape for name, shape in shapes.items()):
        raise ScoreError("a paired test needs two predictions files over the same samples; pass one samples table")
    return {
        name: _difference(first.values[name] - second.values[name], first.resampled[name] - second.resampled[name])
        for name in names
    }


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
