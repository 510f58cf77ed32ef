"""How large a recipe's data are, from what is published about them, before any of it is there.

Numbers of samples and images are those of memvp_data's table of datasets; files in LLaVA's layout that are there and
small are counted instead. Lengths of texts are assumptions, written out
here; whoever has the data can say better: `plan.py --tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memvp_data.datasets.table import DATASETS
from memvp_train.config import StageConfig
from pipelines.data.sources import source_of

if TYPE_CHECKING:
    from memvp_train.cost_model.stage import Text

LENGTHS: dict[str, tuple[int, int]] = {
    # Inferred from the FLOPs that the paper's Table 1 prints: no other length gives all of them.
    "vqav2": (11, 2),
    "gqa": (17, 2),
    "coco": (21, 10),
    "tvqa": (352, 2),
    "how2qa": (295, 2),
    # Rough: prompts of ScienceQA have some 100 to 200 tokens, captions of LCS-558K some 20, talks of the mixture a few
    # hundred.
    "scienceqa": (160, 8),
    "lcs_558k": (32, 24),
    "llava_665k": (256, 96),
    "toyworld": (32, 8),
}
"""Tokens of a sample and those of them that are learnt, on average, by data set."""
_UNKNOWN = (64, 16)
_LONGEST = 8
"""The longest sample is taken to have so many times the average, or the stage's max_length if that is less."""
# COCO's train2017 has 118,287 images; of the other folders of the mixture at most one image per record.
_MIXTURE_IMAGES = 118_287 + 86_417 + 80_000 + 72_140 + 21_953
_STAGE_1_IMAGES = 558_128
_LARGEST_COUNTED = 64 << 20
"""Bytes of a file that is read for its numbers; LLaVA's own have hundreds of MiB."""


@dataclass(frozen=True)
class Sizes:
    """How large the data of a job are."""

    texts: dict[str, Text]
    """What the samples of each stage are like."""
    num_images: int
    """Different images whose features the job stores, at most."""


def sizes_of(config: Any, *, tokens: Mapping[str, tuple[int, ...]] | None = None) -> Sizes:
    """Of a job that may not have run yet.

    Args:
        config: JobConfig or FinetuneConfig.
        tokens: by the stage's name: mean, longest and learnt tokens of a sample, as far as they are known.
    """
    counted, given = _counted(config), tokens or {}
    texts = {
        name: _text(config, stage, name=name, given=given.get(name, ()), counted=counted)
        for name, stage in config.stages.items()
    }
    return Sizes(texts, _num_images(config, counted=counted))


@dataclass(frozen=True)
class _Counted:
    """What files that are there and small hold."""

    samples: dict[str, int]
    """By table."""
    num_images: int
    """Different ones."""


def _text(config: Any, stage: StageConfig, *, name: str, given: tuple[int, ...], counted: _Counted | None) -> Text:
    from memvp_train.cost_model.stage import Text

    dataset = _dataset(config, name)
    assumed, labels = LENGTHS.get(dataset.removesuffix("_vl_t5"), _UNKNOWN)
    mean = given[0] if given else min(assumed, stage.max_length)
    longest = given[1] if len(given) > 1 else min(_LONGEST * mean, max(mean, stage.max_length))
    learnt = given[2] if len(given) > 2 else max(1, min(labels, mean - 1))
    num_samples = _num_samples(config, name, dataset=dataset, counted=counted)
    return Text(num_samples=num_samples, num_tokens=mean, longest=longest, num_labels=learnt)


def _dataset(config: Any, stage: str) -> str:
    """Name in `LENGTHS` or the table of datasets."""
    if config.data.toyworld is not None:
        return "toyworld"
    if hasattr(config.data, "dataset"):
        return config.data.dataset
    return {"stage1": "lcs_558k", "stage2": "llava_665k"}[stage]


def _num_samples(config: Any, stage: str, *, dataset: str, counted: _Counted | None) -> int:
    drawn = config.data.toyworld
    if drawn is not None:
        if hasattr(drawn, "num_images"):
            return drawn.num_images
        return drawn.num_train_images + (drawn.num_text_only if stage == "stage2" else 0)
    if counted is not None:
        return counted.samples.get(stage, 0)
    split = DATASETS[dataset].splits[config.data.train if hasattr(config.data, "dataset") else "train"]
    return split.num_samples[0] if split.num_samples else 0


def _num_images(config: Any, *, counted: _Counted | None) -> int:
    drawn = config.data.toyworld
    if drawn is not None:
        return sum(getattr(drawn, name, 0) for name in ("num_images", "num_train_images", "num_test_images"))
    if counted is not None:
        return counted.num_images
    if not hasattr(config.data, "dataset"):
        return _STAGE_1_IMAGES + _MIXTURE_IMAGES
    splits = DATASETS[config.data.dataset].splits
    names = (config.data.train, *config.data.tests)
    return sum(_images(splits[name]) for name in names if name in splits)


def _counted(config: Any) -> _Counted | None:
    """Of files in LLaVA's layout; None where they are absent or large."""
    source = None if hasattr(config.data, "dataset") else source_of(config)
    if source is None or source.root is None:
        return None
    files = [source.root / path for path in source.files().values()]
    if not all(path.is_file() and path.stat().st_size <= _LARGEST_COUNTED for path in files):
        return None
    counts, images = dict[str, int](), set[str]()
    for name, part in source.parts(source.root).items():
        counts[name] = 0
        for sample in part.samples:
            counts[name] += 1
            images.update(sample.image_ids)
    return _Counted(counts, len(images))


def _images(split: Any) -> int:
    """Of a split; at most one per sample where nothing is published."""
    return split.num_images or (split.num_samples[0] if split.num_samples else 0)
