"""From official files through a reader to a score: right answers get full marks, absurd ones none."""

import json
from collections import Counter
from pathlib import Path

import pytest

from memvp_data.datasets.table import find_dataset
from memvp_data.metrics import mme
from memvp_data.metrics.pairing import ScoreError
from memvp_data.metrics.suite import METRICS, find_metric, score
from memvp_data.samples import Sample
from tests.data.datasets.official import WRITERS

from .questions import asked, row

# Dataset -> split, and the best value of its first score (CIDEr depends on the corpus and comes below).
SPLITS = {"vqav2": "val", "gqa": "testdev", "scienceqa": "test", "sqa_i": "test", "tvqa": "val", "how2qa": "val"}
SPLITS |= {"mme": "test", "mmbench": "dev", "pope": "test"}
BEST = {"mme": 200 * len(mme.PERCEPTION)}


def questions(dataset: str, split: str, *, root: Path) -> list[Sample]:
    WRITERS[dataset](root)
    return [*find_dataset(dataset).read(root, split=split, check_images=False)]


@pytest.mark.parametrize("dataset", SPLITS)
def test_right_answers_to_official_files_get_full_marks(dataset: str, tmp_path: Path) -> None:
    samples = questions(dataset, SPLITS[dataset], root=tmp_path)
    majority = [row(sample.id, Counter(sample.answers).most_common(1)[0][0]) for sample in samples]
    report = score(dataset, majority, samples, resamples=10)
    headline, full = next(iter(report.scores.values())), BEST.get(dataset, 100)
    assert (headline.value, headline.high, report.n) == (full, full, len(samples))
    assert report.unparsable == 0


@pytest.mark.parametrize("dataset", [*SPLITS, "coco"])
def test_absurd_answers_get_nothing_but_what_the_official_rule_gives(dataset: str, tmp_path: Path) -> None:
    samples = questions(dataset, SPLITS.get(dataset, "test"), root=tmp_path)
    report = score(
        dataset, [row(sample.id, "¿" if dataset != "coco" else "?") for sample in samples], samples, resamples=10
    )
    headline = next(iter(report.scores.values())).value
    if dataset == "pope":  # whatever is not a no is a yes there
        assert headline > 0
    else:
        assert headline == 0
    readable = {"vqav2", "gqa"}  # any text can be an answer
    assert report.unparsable == (0 if dataset in readable else 1)


def test_captions_of_official_files(tmp_path: Path) -> None:
    samples = questions("coco", "test", root=tmp_path)
    report = score("coco", [row(sample.id, sample.answers[0]) for sample in samples], samples, resamples=10)
    assert report.scores["BLEU-4"].value >= 0
    assert report.scores["ROUGE-L"].value == pytest.approx(100)
    assert report.scores["CIDEr"].value > 250


def test_a_report_in_full() -> None:
    samples = [asked(str(n), "red", image=f"i{n // 2}", structural="query") for n in range(8)]
    right, half = [row(str(n), "red") for n in range(8)], [row(str(n), "red" if n < 4 else "") for n in range(8)]
    report = score("gqa", half, samples, other=right)
    assert (report.n, report.num_images, report.unparsable) == (8, 4, 0.5)
    assert report.scores["accuracy"].value == 50
    assert report.differences["accuracy"].value == -50
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["scores"]["open"]["n"] == 8
    assert report.notes == ("4 images are few: such intervals are too narrow, 30 and more are trustworthy",)


def test_many_images_carry_no_warning() -> None:
    samples = [asked(str(n), "red", image=f"i{n}") for n in range(30)]
    assert score("gqa", [row(sample.id, "red") for sample in samples], samples, resamples=5).notes == ()


def test_test_splits_without_answers_are_not_scored(tmp_path: Path) -> None:
    samples = questions("mmbench", "test", root=tmp_path)
    with pytest.raises(ScoreError, match="has no answers to score against"):
        score("mmbench", [row(sample.id, "A") for sample in samples], samples)


def test_unknown_datasets_name_the_known_ones() -> None:
    with pytest.raises(ScoreError, match="there is no metric 'vqa'; known: vqav2, vqav2-vlpet"):
        find_metric("vqa")
    assert set(SPLITS) < set(METRICS)
