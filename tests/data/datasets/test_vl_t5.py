"""VQAv2 and GQA in VL-T5's files: the same questions as in the official ones, with its labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.vl_t5 import read_gqa_of_vl_t5, read_vqav2_of_vl_t5
from memvp_data.datasets.vqav2 import read_vqav2
from memvp_data.samples import Turn
from tests.data.datasets.official import WRITERS
from tests.data.datasets.put_files import GONE


def test_questions_to_score_are_the_official_ones(tmp_path: Path) -> None:
    WRITERS["vqav2"](tmp_path)
    WRITERS["vqav2_vl_t5"](tmp_path)
    for split in ("karpathy_val", "karpathy_test"):
        (ours,) = read_vqav2_of_vl_t5(tmp_path, split=split)
        (official,) = read_vqav2(tmp_path, split=split)
        assert (ours.id, ours.image_ids, ours.turns) == (official.id, official.image_ids, official.turns)
        assert (ours.answers, ours.fields, ours.task) == (official.answers, official.fields, official.task)


def test_labels_to_learn_may_be_empty(official: Callable[[str], Path]) -> None:
    first, second = read_vqav2_of_vl_t5(official("vqav2_vl_t5"), split="karpathy_train")
    assert (first.answers, first.answer_weights, first.turns[-1].text) == (("",), (0.0,), "")
    assert dict(zip(second.answers, second.answer_weights, strict=True)) == {
        "shoes": 1.0,
        "boots": 0.9,
        "shoe": 0.6,
        "don't know": 0.3,
    }
    assert second.turns[-1] == Turn("assistant", "shoes")


def test_gqa_is_trained_on_train_and_valid(official: Callable[[str], Path]) -> None:
    root = official("gqa_vl_t5")
    assert [sample.id for sample in read_gqa_of_vl_t5(root, split="train_valid")] == ["01", "02"]
    (scored,) = read_gqa_of_vl_t5(root, split="testdev")
    assert (scored.answers, scored.image_ids, len(scored.turns)) == (("cat",), ("n3_djpg",), 1)


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        ((0, "label"), ["yes"], r"\"label\" must be an object of scores by answer"),
        ((0, "label"), {"yes": "1"}, r"the score of 'yes' must be a number from 0 to 1, got '1'"),
        ((0, "label"), {"yes": float("nan")}, r"the score of 'yes' must be a number from 0 to 1, got nan"),
        ((0, "img_id"), "COCO_test2015_000000000001", r"COCO's subset must be one of train2014, val2014"),
        ((0, "img_id"), "val2014_/../../x", r"could leave its folder"),
        ((0, "answers"), GONE, r"must hold the answers of 10 annotators, got None"),
        ((0, "sent"), None, r"\"sent\" must be a string"),
    ],
)
def test_a_bad_record_is_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    root = changed("vqav2_vl_t5", file="vqa/karpathy_test.json", at=at, to=to)
    with pytest.raises(DatasetError, match=rf"^karpathy_test\.json, record 0 \(question_id 74000\): .*{message}"):
        list(read_vqav2_of_vl_t5(root, split="karpathy_test"))


def test_a_question_of_gqa_has_one_answer(changed: Callable[..., Path]) -> None:
    root = changed("gqa_vl_t5", file="GQA/train.json", at=(0, "label"), to={"a": 1.0, "b": 1.0})
    with pytest.raises(DatasetError, match=r"\"label\" must be one answer with its score"):
        list(read_gqa_of_vl_t5(root, split="train"))
