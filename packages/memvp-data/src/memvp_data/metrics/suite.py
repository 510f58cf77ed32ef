"""Which metric scores which dataset, and the report it makes: `score("gqa", predictions, samples)`.

A report holds every score with its interval, how many questions stand behind it and how many answers could not be read.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import isnan
from typing import Any

from memvp_data.metrics import (
    accuracy,
    gqa,
    mmbench,
    mmbench_letters,
    mme,
    pope,
    scienceqa,
    sqa_i,
    video,
    vqa,
)
from memvp_data.metrics.bootstrap import RESAMPLES, SEED, Difference, Draws, Interval, differences, draw, intervals
from memvp_data.metrics.captions import score as captions
from memvp_data.metrics.pairing import Answered, ScoreError, pair
from memvp_data.metrics.tally import Tally
from memvp_data.samples import Sample

MANY_IMAGES = 30
"""Below, a report warns: percentile intervals from few images cover the truth less often than they say."""

Metric = Callable[[Sequence[Answered]], Tally]

METRICS: dict[str, Metric] = {
    "vqav2": vqa.tally,
    "vqav2-vlpet": partial(vqa.tally, rule=vqa.vlpet),
    "vqav2-evalai": partial(vqa.tally, rule=vqa.evalai),
    "vqav2-topk": partial(vqa.tally, rule=vqa.topk),
    "gqa": gqa.tally,
    "gqa-llava": partial(gqa.tally, postprocess=gqa.llava_postprocess),
    "coco": captions.tally,
    "coco-meteor": partial(captions.tally, with_meteor=True),
    "scienceqa": scienceqa.tally,
    "scienceqa-sentence": partial(scienceqa.tally, extract=scienceqa.sentence),
    "sqa_i": sqa_i.tally,
    "mme": mme.tally,
    "mmbench": mmbench.tally,
    "mmbench-2023": partial(mmbench.tally, rules=mmbench_letters.rules_2023),
    "pope": pope.tally,
    "tvqa": video.tally,
    "how2qa": video.tally,
    "accuracy": accuracy.tally,
}


@dataclass(frozen=True)
class Report:
    """The scores of one predictions file."""

    dataset: str
    """Name in METRICS: the dataset, and the variant after a hyphen."""
    n: int
    """Number of predictions."""
    num_images: int
    """What the intervals resample; a question without image is its own."""
    unparsable: float
    """Share of predictions in which the metric found no answer, 0 to 1."""
    scores: dict[str, Interval]
    """The first is the one that papers print."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """Minus the scores of the other predictions file, if there is one."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""
    resamples: int = RESAMPLES
    seed: int = SEED

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON; an undefined number is null."""
        return _without_nan(asdict(self))


def score(
    dataset: str,
    predictions: Iterable[dict[str, Any]],
    samples: Iterable[Sample],
    *,
    other: Iterable[dict[str, Any]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Report:
    """Score predictions with the metric of a dataset, and compare them with others of the same questions."""
    questions = list(samples)
    report, draws = score_once(dataset, predictions, questions, resamples=resamples, seed=seed)
    if other is None:
        return report
    against = draw(find_metric(dataset)(pair(other, questions)), resamples=resamples, seed=seed)
    return replace(report, differences=differences(draws, against))


def score_once(
    dataset: str,
    predictions: Iterable[dict[str, Any]],
    samples: Iterable[Sample],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Report, Draws]:
    """The report, and what later comparisons with other predictions need: `bootstrap.differences` of two draws."""
    tally = find_metric(dataset)(pair(predictions, samples))
    draws = draw(tally, resamples=resamples, seed=seed)
    report = Report(
        dataset=dataset,
        n=tally.n,
        num_images=len(tally.images),
        unparsable=tally.num_unparsable / tally.n,
        scores=intervals(tally, draws),
        notes=tally.notes + _few_images(len(tally.images)),
        resamples=resamples,
        seed=seed,
    )
    return report, draws


def find_metric(dataset: str) -> Metric:
    """The metric of a dataset; `ScoreError` naming the known ones if there is none."""
    if dataset not in METRICS:
        raise ScoreError(f"there is no metric {dataset!r}; known: {', '.join(METRICS)}")
    return METRICS[dataset]


def _few_images(num_images: int) -> tuple[str, ...]:
    note = f"{num_images} images are few: such intervals are too narrow, {MANY_IMAGES} and more are trustworthy"
    return (note,) if num_images < MANY_IMAGES else ()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value
