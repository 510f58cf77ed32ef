"""COCO Captions in Karpathy's split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.coco import read_coco
from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.karpathy import parts_by_image
from memvp_data.samples import Turn


def test_training_has_a_sample_per_caption_restval_among_them(official: Callable[[str], Path]) -> None:
    samples = list(read_coco(official("coco"), split="train"))
    assert [sample.id for sample in samples] == ["9-0", "9-1", "42-10"]
    assert samples[1].turns == (Turn("user", ""), Turn("assistant", "A red bus"))
    assert samples[1].answers == ("A red bus",)


def test_test_has_a_sample_per_image_with_all_its_captions(official: Callable[[str], Path]) -> None:
    samples = list(read_coco(official("coco"), split="test"))
    assert [(sample.id, sample.answers) for sample in samples] == [
        ("74", ("A kite.", "Kites fly.")),
        ("133", ("A bed.", "The bed, unmade.", "Bed.")),
        ("139", ("A room.", "Room with a TV.")),
    ]
    assert {sample.turns for sample in samples} == {(Turn("user", ""),)}


def test_parts_fold_restval_into_train(official: Callable[[str], Path]) -> None:
    parts = parts_by_image(official("coco") / "dataset_coco.json")
    assert parts == {9: "train", 42: "train", 73: "val", 74: "test", 133: "test", 139: "test"}


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        (("images", 3, "split"), "dev", r"image 3 \(cocoid 74\): \"split\" must be one of train, restval, val, test"),
        (("images", 3, "split"), ["test"], r"\"split\" must be a string"),
        (("images", 3, "cocoid"), 9, r"image 3 \(cocoid 9\): this cocoid '9' was used before"),
        (("images", 3, "cocoid"), 1.5, r"\"cocoid\" must be an integer from 0 on, got 1.5"),
        (("images", 3, "sentences"), [], r"\"sentences\" must be a list of at least one object, got \[\]"),
        (("images", 3, "sentences", 0, "raw"), None, r"\"raw\" must be a string"),
        (("images", 3, "sentences", 0), 7, r"\"sentences\" must be a list"),
        (("images", 3, "filename"), "../../passwd", r"cocoid 74: name 'val2014/../../passwd' could leave its folder"),
        (("images", 3, "filename"), "no.jpg", r"cocoid 74: image 'val2014/no.jpg' is not in"),
    ],
)
def test_a_bad_record_is_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"^dataset_coco\.json, .*{message}"):
        list(read_coco(changed("coco", file="dataset_coco.json", at=at, to=to), split="test"))
