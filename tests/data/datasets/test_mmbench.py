"""MMBench: rotations share an index, images come by content or by reference, test has no answers."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.mmbench import FILES, read_mmbench, unpack_images
from memvp_data.images import load_image
from tests.data.datasets.official_choices import mmbench_rows


def test_rotations_share_their_index_and_their_image(official: Callable[[str], Path]) -> None:
    samples = list(read_mmbench(official("mmbench"), split="dev"))
    assert [sample.id for sample in samples] == ["241", "1000241", "2000241", "3000241", "300", "1000300"]
    assert [sample.fields["index"] for sample in samples] == ["241"] * 4 + ["300"] * 2
    assert [sample.answers for sample in samples] == [("B",), ("A",), ("D",), ("C",), ("A",), ("B",)]
    assert json.loads(samples[1].fields["choices"]) == ["dog", "car", "tree", "cat"]
    assert [sample.image_ids for sample in samples] == [("dev_s241_djpg",)] * 4 + [("dev_s300_djpg",)] * 2
    assert samples[0].fields["hint"] == 'Line one\nline "two"'
    expected = {"category": "object", "l2_category": "finegrained", "split": "dev", "hint": ""}
    assert expected.items() <= dict(samples[4].fields).items()


def test_images_by_reference_are_the_same_images(official: Callable[[str], Path]) -> None:
    root = official("mmbench")
    legacy, later = (list(read_mmbench(root, split=split)) for split in ("dev", "dev_en"))
    names = [sample.image_ids[0].replace("dev_uen", "dev") for sample in later]
    assert names == [sample.image_ids[0] for sample in legacy]


def test_test_has_no_answers(official: Callable[[str], Path]) -> None:
    assert {sample.answers for sample in read_mmbench(official("mmbench"), split="test")} == {()}


@pytest.mark.parametrize("split", ["dev", "dev_en"])
def test_images_are_unpacked_once_each(official: Callable[[str], Path], split: str) -> None:
    root = official("mmbench")
    for name in ("241", "300"):
        (root / f"images/{split}/{name}.jpg").unlink()
    with pytest.raises(DatasetError, match=rf"line 3 \(index '241'\): 2 images are not in .* \('{split}/241.jpg', '"):
        list(read_mmbench(root, split=split))
    assert unpack_images(root, split=split) == 2
    assert len(list(read_mmbench(root, split=split))) == 6
    assert load_image(root / f"images/{split}/241.jpg", name="241").size == (4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": "-1"}, r"index must be an integer from 0 on, got '-1'"),
        ({"index": "9" * 400}, r"index must be an integer from 0 on, got '999"),
        ({"index": "1000241"}, r"this index '1000241' was used before"),
        ({"image": "../x"}, r"index must be an integer from 0 on, got '../x'"),
        ({"B": ""}, r"options must fill A, B, ... without a gap"),
        ({"answer": "E"}, r"\"answer\" must be one of A, B, C, D, got 'E'"),
        ({"question": "x" * 2_000_000}, r"\"question\" has 2,000,000 characters"),
    ],
)
def test_a_bad_row_is_named(official: Callable[[str], Path], changes: dict, message: str) -> None:
    root, rows = official("mmbench"), mmbench_rows(by_reference=False)
    rows[2] |= changes
    _put_rows(root / FILES["dev"], rows)
    with pytest.raises(DatasetError, match=rf"^mmbench_dev_20230712\.tsv, line \d+ \(index .*\): {message}"):
        list(read_mmbench(root, split="dev"))


def test_none_is_an_option_unless_it_is_the_last(official: Callable[[str], Path]) -> None:
    root, rows = official("mmbench"), mmbench_rows(by_reference=False)
    rows[0] |= {"C": "None", "D": "nan"}
    rows[1] |= {"C": "none", "D": "None"}
    _put_rows(root / FILES["dev"], rows[:2] + rows[4:])
    first, second, *_ = read_mmbench(root, split="dev")
    assert json.loads(first.fields["choices"]) == ["cat", "dog"]
    assert json.loads(second.fields["choices"]) == ["dog", "car"]
    rows[0] |= {"B": "None", "C": "car", "answer": "A"}
    _put_rows(root / FILES["dev"], rows[:1])
    assert json.loads(next(read_mmbench(root, split="dev")).fields["choices"]) == ["cat", "None", "car"]


def test_none_is_the_second_of_two_options(official: Callable[[str], Path]) -> None:
    root, rows = official("mmbench"), mmbench_rows(by_reference=False)
    rows[0] |= {"B": "None", "C": "", "D": "", "answer": "A"}
    _put_rows(root / FILES["dev"], rows[:1])
    assert json.loads(next(read_mmbench(root, split="dev")).fields["choices"]) == ["cat", "None"]


def test_no_base64_and_no_columns_are_named(official: Callable[[str], Path]) -> None:
    root, rows = official("mmbench"), mmbench_rows(by_reference=False)
    rows[0]["image"] = "@" * 65
    _put_rows(root / FILES["dev"], rows)
    with pytest.raises(DatasetError, match=r"\(index '241'\): its image is not base64"):
        unpack_images(root, split="dev")
    (root / FILES["dev"]).write_text("index\tquestion\n1\tx\n")
    with pytest.raises(DatasetError, match=r"there is no column 'A'; take the official file"):
        list(read_mmbench(root, split="dev"))


def _put_rows(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
