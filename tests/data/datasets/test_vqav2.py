"""VQAv2: official and Karpathy splits from the official files, soft labels to learn, ten raw answers to score."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.vqav2 import SPLITS, frequent_answers, read_answer_list, read_vqav2
from memvp_data.samples import Sample, Turn, from_id
from tests.data.datasets.put_files import GONE

QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", ["9000"]),
        ("val", ["42000", "73000", "74000"]),
        ("test", ["1000"]),
        ("test-dev", ["1000"]),
        ("karpathy_train", ["9000", "42000"]),  # restval is trained on
        ("karpathy_val", ["73000"]),
        ("karpathy_test", ["74000"]),
    ],
)
def test_each_split_has_its_questions(official: Callable[[str], Path], split: str, ids: list[str]) -> None:
    assert [sample.id for sample in read_vqav2(official("vqav2"), split=split)] == ids


def test_a_question_to_score_has_the_ten_raw_answers(official: Callable[[str], Path]) -> None:
    (sample,) = read_vqav2(official("vqav2"), split="karpathy_test")
    assert sample == Sample(
        "74000",
        sample.image_ids,
        (Turn("user", "Why is it dark?"),),
        task="other",
        answers=("its night", "it's night", *["night"] * 8),
        source=QUESTIONS,
        fields={"answer_type": "other", "question_type": "why is"},
    )
    assert from_id(sample.image_ids[0]) == "val2014/COCO_val2014_000000000074.jpg"


def test_a_question_to_learn_has_soft_labels_and_the_best_as_turn(official: Callable[[str], Path]) -> None:
    _, sample = read_vqav2(official("vqav2"), split="karpathy_train")
    assert sample.turns == (Turn("user", "What is on the rug?"), Turn("assistant", "shoes"))
    assert dict(zip(sample.answers, sample.answer_weights, strict=True)) == {
        "shoes": 1.0,  # of four annotators
        "boots": 0.9,
        "shoe": 0.6,
        "don't know": 0.3,
    }


def test_an_answer_list_drops_answers_and_leaves_weight_0(official: Callable[[str], Path]) -> None:
    root = official("vqav2")
    (root / "trainval_label2ans.json").write_text(json.dumps(["", "boots", "shoe"]))
    answers = read_answer_list(root / "trainval_label2ans.json")
    first, second = read_vqav2(root, split="karpathy_train", answer_list=answers)
    assert (first.answers, first.answer_weights) == (("yes",), (0.0,))
    assert (second.answers, second.answer_weights) == (("boots", "shoe"), (0.9, 0.6))
    assert second.turns[-1].text == "boots"


def test_the_answer_list_counts_normalised_most_frequent_answers(official: Callable[[str], Path]) -> None:
    root = official("vqav2")
    assert frequent_answers(root, normalise=str.upper, min_questions=1) == {"YES", "SHOES", "2", "NIGHT"}
    assert frequent_answers(root, normalise=lambda _: "x", min_questions=4) == {"x"}
    assert frequent_answers(root, normalise=str.upper, min_questions=2) == frozenset()


def test_files_in_different_orders_pair_up(official: Callable[[str], Path]) -> None:
    root = official("vqav2")
    content = json.loads((root / ANNOTATIONS).read_text())
    content["annotations"].reverse()
    (root / ANNOTATIONS).write_text(json.dumps(content))
    samples = list(read_vqav2(root, split="val"))
    assert {sample.id: sample.task for sample in samples} == {"42000": "other", "73000": "number", "74000": "other"}


@pytest.mark.parametrize(
    ("file", "at", "to", "message"),
    [
        (QUESTIONS, ("questions", 0, "question_id"), 7, r"questions\.json, question 7: there is no annotation for it"),
        (ANNOTATIONS, ("annotations", 0), GONE, r"question 42000: there is no annotation for it"),
        (QUESTIONS, ("questions", 0), GONE, r"annotations\.json, question 42000: there is no question for it"),
        (QUESTIONS, ("questions", 1, "question_id"), 42000, r"record 1: question_id 42000 was used before"),
        (QUESTIONS, ("questions", 1, "question_id"), "7", r"record 1: \"question_id\" must be an integer from 0 on"),
        (QUESTIONS, ("questions", 1, "question_id"), 10**40, r"must be an integer from 0 on, got 1000.*0000"),
        (QUESTIONS, ("questions", 0, "image_id"), 75, r"question 42000: its annotation is about image 42, not 75"),
        (QUESTIONS, ("questions", 0, "image_id"), -1, r"question 42000: \"image_id\" must be an integer from 0 on"),
        (QUESTIONS, ("questions", 0, "question"), None, r"question 42000: \"question\" must be a string, got None"),
        (QUESTIONS, ("questions",), GONE, r"expected an object with a list \"questions\", found none"),
        (ANNOTATIONS, ("annotations", 0, "answers"), [], r"must hold the answers of 10 annotators, got \[\]"),
        (ANNOTATIONS, ("annotations", 0, "answers"), ["yes"] * 10, r"must be an object with \"answer\""),
        (ANNOTATIONS, ("annotations", 0, "answers", 3), {}, r"\"answer\" must be a string, got None"),
        (ANNOTATIONS, ("annotations", 0, "answer_type"), 1, r"\"answer_type\" must be a string, got 1"),
    ],
)
def test_a_bad_record_is_named(changed: Callable[..., Path], file: str, at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_vqav2(changed("vqav2", file=file, at=at, to=to), split="val"))
    assert "\n" not in str(caught.value)


def test_an_image_that_is_not_there_or_in_no_split_is_named(official: Callable[[str], Path]) -> None:
    root = official("vqav2")
    (root / "val2014/COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(DatasetError, match=r"question 42000: image 'val2014/COCO_val2014_000000000042.jpg' is not in"):
        list(read_vqav2(root, split="val"))
    assert len(list(read_vqav2(root, split="val", check_images=False))) == 3
    coco = json.loads((root / "dataset_coco.json").read_text())
    del coco["images"][1]
    (root / "dataset_coco.json").write_text(json.dumps(coco))
    with pytest.raises(DatasetError, match=r"question 42000: image 42 is not in dataset_coco\.json"):
        list(read_vqav2(root, split="karpathy_test"))


def test_an_unknown_split_and_a_wrong_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"split must be one of {SPLITS[0]}, .*karpathy_test, got 'dev'"):
        list(read_vqav2(tmp_path, split="dev"))
    (tmp_path / "list.json").write_text('{"a": 1}')
    with pytest.raises(DatasetError, match=r"list\.json: expected a list of answers"):
        read_answer_list(tmp_path / "list.json")
