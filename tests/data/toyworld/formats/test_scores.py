"""The official metric of every format gives a perfect model its maximum, and one that is always wrong less.

The wrong answers of VQAv2 are those that some annotators gave, so they score a little.
"""

import pytest

from memvp_data.metrics.suite import score
from tests.data.toyworld.formats.worlds import right_answer, samples


def scores(name: str, split: str, said: dict[str, str]) -> dict[str, float]:
    rows = [{"question_id": sample_id, "text": text} for sample_id, text in said.items()]
    report = score(name.removesuffix("_vl_t5"), rows, samples(name, split), resamples=2)
    return {title: interval.value for title, interval in report.scores.items()}


def wrong_answer(answer: str) -> str:
    """Another answer of the same form, so that it can be read."""
    swapped = {"yes": "no", "no": "yes", "Yes": "No", "No": "Yes", "A": "B", "a0": "a1"}
    return swapped.get(answer) or ("A" if len(answer) == 1 else "a0")


@pytest.mark.parametrize(
    ("name", "split", "title", "maximum"),
    [
        ("vqav2", "val", "accuracy", 100),
        ("vqav2", "karpathy_test", "accuracy", 100),
        ("gqa", "testdev", "accuracy", 100),
        ("vqav2_vl_t5", "karpathy_test", "accuracy", 100),
        ("gqa_vl_t5", "testdev", "accuracy", 100),
        ("scienceqa", "test", "average", 100),
        ("sqa_i", "test", "questions with an image", 100),
        ("tvqa", "val", "accuracy", 100),
        ("how2qa", "val", "accuracy", 100),
        ("mme", "perception", "perception", 2000),
        ("mme", "cognition", "cognition", 800),
        ("mmbench", "dev", "accuracy", 100),
        ("mmbench", "dev_en", "accuracy", 100),
        ("pope", "test", "f1, mean of the splits", 100),
    ],
)
def test_right_and_wrong_answers(name, split, title, maximum):
    right = {sample.id: right_answer(sample) for sample in samples(name, split)}
    found = scores(name, split, right)
    assert found[title] == pytest.approx(maximum)
    mixed = {key: wrong_answer(said) if n == 0 else said for n, (key, said) in enumerate(right.items())}
    assert scores(name, split, mixed)[title] < maximum
    wrong = {key: wrong_answer(said) for key, said in right.items()}
    assert scores(name, split, wrong)[title] < maximum / 2


def test_captions():
    """A reference is a perfect caption by BLEU and ROUGE; the caption of another image is worse by every score."""
    said = {sample.id: sample.answers[0] for sample in samples("coco", "test")}
    right = scores("coco", "test", said)
    assert right["BLEU-4"] == pytest.approx(100)
    assert right["ROUGE-L"] == pytest.approx(100)
    moved = dict(zip(said, [*list(said.values())[1:], next(iter(said.values()))], strict=True))
    wrong = scores("coco", "test", moved)
    assert all(wrong[title] < value for title, value in right.items())
