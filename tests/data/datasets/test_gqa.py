"""GQA: the balanced questions of each split, with their types."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.gqa import read_gqa
from memvp_data.datasets.json_files import DatasetError
from memvp_data.samples import Sample, Turn
from tests.data.datasets.put_files import GONE

TESTDEV = "testdev_balanced_questions.json"


def test_every_structural_type_and_a_group_that_is_null(official: Callable[[str], Path]) -> None:
    samples = list(read_gqa(official("gqa"), split="testdev"))
    assert [sample.fields["structural"] for sample in samples] == ["verify", "query", "logical", "choose", "compare"]
    assert samples[1] == Sample(
        "0002",
        ("n100_djpg",),
        (Turn("user", "What is the cat on?"),),
        task="query",
        answers=("sofa",),
        source=TESTDEV,
        fields={"structural": "query", "semantic": "rel"},
    )


def test_papers_train_on_train_and_val_together(official: Callable[[str], Path]) -> None:
    root = official("gqa")
    both = list(read_gqa(root, split="train_val"))
    assert [sample.turns[-1] for sample in both] == [Turn("assistant", "man"), Turn("assistant", "girl")]
    assert [sample.id for sample in read_gqa(root, split="train")] == ["10"]
    (scored,) = read_gqa(root, split="val")
    assert (scored.answers, scored.turns) == (("girl",), (Turn("user", "Who runs?"),))


def test_test_questions_have_neither_answer_nor_types(official: Callable[[str], Path]) -> None:
    (sample,) = read_gqa(official("gqa"), split="test")
    assert (sample.answers, dict(sample.fields)) == ((), {})


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        (("0002", "isBalanced"), False, r"question '0002': \"isBalanced\" must be true, got False"),
        (("0002", "answer"), None, r"question '0002': \"answer\" must be a string, got None"),
        (("0002", "imageId"), "../n100", r"question '0002': name '../n100.jpg' could leave its folder"),
        (("0002", "imageId"), "n404", r"image 'n404.jpg' is not in .*images; put it there"),
        (("0002", "question"), "x" * 10_000_000, r"\"question\" has 10,000,000 characters, more than"),
        (("0002", "types"), "query", r"\"types\" must be an object, got 'query'"),
        (("0002", "types", "semantic"), 3, r"\"semantic\" must be a string, got 3"),
        (("../../x",), {"isBalanced": True, "question": "a", "imageId": "n100"}, r"name '../../x' could leave"),
    ],
)
def test_a_bad_record_is_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_gqa(changed("gqa", file=TESTDEV, at=at, to=to), split="testdev"))
    assert str(caught.value).startswith(f"{TESTDEV}, question ")
    assert "\n" not in str(caught.value)


def test_a_question_that_comes_twice_or_has_no_answer_to_learn_is_refused(changed: Callable[..., Path]) -> None:
    root = changed("gqa", file="train_balanced_questions.json", at=("10", "answer"), to=GONE)
    with pytest.raises(DatasetError, match=r"\"answer\" must be a string, got None"):
        list(read_gqa(root, split="train"))
    path = root / "train_balanced_questions.json"
    path.write_text('{"10": {"question": "a", "imageId": "2375429", "isBalanced": true, "answer": "b"}, "10": {}}')
    with pytest.raises(DatasetError, match=r"record '10' is there twice; keep one"):
        list(read_gqa(root, split="train"))
