"""ScienceQA: subjects, hints, images, captions and the official splits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.scienceqa import read_scienceqa
from memvp_data.samples import Turn
from tests.data.datasets.put_files import GONE


def test_the_ten_problems_cover_all_groups(official: Callable[[str], Path]) -> None:
    samples = list(read_scienceqa(official("scienceqa"), split="test"))
    assert len(samples) == 10
    groups = {(sample.fields["has_hint"], sample.fields["has_image"]) for sample in samples}
    assert groups == {(hint, image) for hint in ("true", "false") for image in ("true", "false")}
    for sample in samples:
        assert bool(sample.image_ids) == (sample.fields["has_image"] == "true")
        assert sample.answers == ("ABCDE"[int(sample.fields["answer_index"])],)
        assert ("caption" in sample.fields) == bool(sample.image_ids)
        assert sample.turns == (Turn("user", sample.fields["question"]),)


def test_a_problem_keeps_its_texts(official: Callable[[str], Path]) -> None:
    sample = list(read_scienceqa(official("scienceqa"), split="test"))[5]
    assert sample.id == "6"
    assert sample.image_ids == ("test_s6_simage_dpng",)
    assert json.loads(sample.fields["choices"]) == ["feather", "brick", "both", "neither"]
    expected = {"subject": "natural science", "grade": "grade6", "hint": "Look at the table.", "answer_index": "0"}
    expected |= {
        "lecture": "Mass is measured.",
        "solution": "A brick has more mass.",
        "caption": "A picture of planets.",
    }
    assert expected.items() <= dict(sample.fields).items()


@pytest.mark.parametrize(
    ("split", "ids"), [("train", ["11"]), ("val", ["12"]), ("trainval", ["11", "12"]), ("minitest", ["1", "2"])]
)
def test_splits_follow_pid_splits(official: Callable[[str], Path], split: str, ids: list[str]) -> None:
    samples = list(read_scienceqa(official("scienceqa"), split=split))
    assert [sample.id for sample in samples] == ids
    is_trained = [sample.turns[-1] == Turn("assistant", f"The answer is {sample.answers[0]}.") for sample in samples]
    assert is_trained == ["train" in split] * len(ids)


def test_captions_stay_out_of_training_unless_asked_for(official: Callable[[str], Path]) -> None:
    root = official("scienceqa")
    assert not any("caption" in sample.fields for sample in read_scienceqa(root, split="trainval"))
    assert [s.fields.get("caption") for s in read_scienceqa(root, split="trainval", captions=True)] == [
        None,
        "A picture of planets.",
    ]
    (root / "captions.json").unlink()
    assert not any("caption" in sample.fields for sample in read_scienceqa(root, split="test", captions=False))
    with pytest.raises(DatasetError, match=r"captions\.json does not exist; download it there or read with captions"):
        next(read_scienceqa(root, split="test"))


@pytest.mark.parametrize(
    ("file", "at", "to", "message"),
    [
        ("problems.json", ("2", "answer"), 7, r"problem '2': \"answer\" must be an integer from 0 on below 4, got 7"),
        ("problems.json", ("2", "answer"), True, r"problem '2': \"answer\" must be an integer"),
        ("problems.json", ("2", "choices"), [], r"problem '2': \"choices\" must be a list of strings"),
        ("problems.json", ("2", "choices"), ["x"] * 6, r"problem '2': \"choices\" must be at most 5, got 6"),
        ("problems.json", ("2", "subject"), "maths", r"\"subject\" must be one of natural science, .* got 'maths'"),
        ("problems.json", ("2", "grade"), "grade13", r"\"grade\" must be one of grade1, .* got 'grade13'"),
        ("problems.json", ("2", "image"), "../x.png", r"could leave its folder"),
        ("problems.json", ("2", "image"), "x.png", r"image 'test/2/x.png' is not in"),
        ("problems.json", ("2", "split"), "..", r"\"split\" must be one of train, val, test"),
        ("problems.json", ("2", "hint"), ["x"], r"\"hint\" must be a string"),
        ("problems.json", ("2",), GONE, r"pid_splits\.json has problem '2' in test, problems\.json does not"),
        ("pid_splits.json", ("test",), ["1", "1"], r"pid_splits\.json: 'test' lists a problem twice"),
        ("pid_splits.json", ("test",), "1", r"pid_splits\.json: \"test\" must be a list of strings"),
        ("captions.json", ("captions",), [], r"captions\.json: expected an object \"captions\""),
        ("captions.json", ("captions", "2"), 5, r"captions\.json: each caption must be a string, got 5"),
    ],
)
def test_a_bad_record_is_named(changed: Callable[..., Path], file: str, at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        list(read_scienceqa(changed("scienceqa", file=file, at=at, to=to), split="test"))
