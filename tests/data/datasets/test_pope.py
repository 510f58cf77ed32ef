"""POPE: three files of JSON Lines, the random one shorter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.pope import read_pope
from memvp_data.samples import Sample, Turn, from_id


def test_all_three_parts_follow_each_other(official: Callable[[str], Path]) -> None:
    samples = list(read_pope(official("pope")))
    assert [sample.fields["pope_split"] for sample in samples] == ["adversarial"] * 6 + ["popular"] * 6 + ["random"] * 4
    assert len({sample.id for sample in samples}) == 16
    assert from_id(samples[0].image_ids[0]) == "val2014/COCO_val2014_000000000042.jpg"


def test_a_question_keeps_its_typo(official: Callable[[str], Path]) -> None:
    sample = list(read_pope(official("pope"), split="random"))[2]
    turns = (Turn("user", "Is there a lamp in the imange?"),)
    fields = {"pope_split": "random"}
    source = "coco_pope_random.json"
    assert sample == Sample("random-3", sample.image_ids, turns, "random", ("yes",), source, fields=fields)


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        ((1, "label"), "maybe", r"line 2 \(question_id 2\): \"label\" must be one of yes, no, got 'maybe'"),
        ((1, "question_id"), 1, r"line 2 \(question_id 1\): this question_id 'random-1' was used before"),
        ((1, "question_id"), "x", r"\"question_id\" must be an integer"),
        ((1, "image"), "../../x.jpg", r"could leave its folder"),
        ((1, "text"), None, r"\"text\" must be a string"),
    ],
)
def test_a_bad_line_is_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"^coco_pope_random\.json, .*{message}"):
        list(read_pope(changed("pope", file="coco_pope_random.json", at=at, to=to), split="random"))
