"""MME: flat and split task folders, two lines a text, .png and .jpg."""

from collections.abc import Callable
from pathlib import Path

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.mme import COGNITION, PERCEPTION, TASKS, read_mme
from memvp_data.samples import Sample, Turn, from_id


def test_published_counts_add_up() -> None:
    assert (sum(PERCEPTION.values()), sum(COGNITION.values()), sum(TASKS.values())) == (2114, 260, 2374)


def test_questions_of_an_image_follow_each_other(official: Callable[[str], Path]) -> None:
    root = official("mme")
    first, second = read_mme(root, split="color")
    turns = (Turn("user", "Is it red?  Please answer yes or no."),)
    assert first == Sample(
        "color_s0001-1", ("color_s0001_dpng",), turns, "color", ("Yes",), "color.txt", fields={"subtask": "color"}
    )
    assert (second.image_ids, second.answers) == (first.image_ids, ("No",))


def test_tasks_lie_flat_or_split(official: Callable[[str], Path]) -> None:
    root = official("mme")
    samples = list(read_mme(root))
    assert {sample.fields["subtask"] for sample in samples} == set(TASKS)
    images = {from_id(sample.image_ids[0]) for sample in samples}
    assert {"OCR/0001.jpg", "code_reasoning/0001.png", "artwork/images/tt0048.jpg"} <= images
    assert len(list(read_mme(root, split="perception"))) == 20
    assert len(list(read_mme(root, split="cognition"))) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Is it red?\tYes\n", r"expected two lines .*, got 1"),
        (b"a\tYes\nb\tNo\nc\tNo", r"expected two lines .*, got 3"),
        (b"a Yes\nb\tNo", r"expected 'question<TAB>Yes' or 'question<TAB>No', got 'a Yes'"),
        (b"a\tyep\nb\tNo", r"the answer must be one of Yes, No, got 'yep'"),
        (b"\xff\xfea\tYes\nb\tNo", r"is not UTF-8 text"),
        (b"a" * 100_000, r"expected two short lines, got 100,000 bytes"),
    ],
)
def test_a_bad_text_is_named(official: Callable[[str], Path], content: bytes, message: str) -> None:
    root = official("mme")
    (root / "color/0001.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"^color/0001\.txt: .*{message}"):
        list(read_mme(root))


def test_a_missing_folder_or_image_is_named(official: Callable[[str], Path]) -> None:
    root = official("mme")
    (root / "color/0001.png").unlink()
    with pytest.raises(DatasetError, match=r"color/0001\.txt: image 'color/0001.jpg' is not in"):
        list(read_mme(root))
    with pytest.raises(DatasetError, match=r"task folder .*images/existence does not exist; the root must be"):
        list(read_mme(root / "artwork/images"))
