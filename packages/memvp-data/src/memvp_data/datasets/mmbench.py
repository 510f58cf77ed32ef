"""MMBench: multiple choice, every question asked again for rotations of its options.

Source: github.com/open-compass/MMBench. Licence: Apache-2.0, images under their own terms. Counts: 4,377 rows about
1,176 questions in `mmbench_dev_20230712.tsv` (split "dev", what LLaVA-1.5 reports), about 4,329 about 1,164 in the
later `MMBench_DEV_EN.tsv` ("dev_en"); the test files ("test", "test_en") have no answers, 1,784 questions.

One sample per row; rows of one question share the field index (the row's index modulo 1,000,000). The answer is a
letter, the user's turn the bare question. Fields: index, category, l2_category, question, choices (JSON list), split,
hint.
Images lie in the table as base64: `unpack_images`, or the command `unpack-images`, writes them to images/ first.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

from memvp_data.datasets.csv_files import read_csv
from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.records import ImageFolder, OnceOnly, checked_text, one_of, placed, shown
from memvp_data.files.atomic import atomic_write
from memvp_data.samples import Sample, Turn

FILES = {
    "dev": "mmbench_dev_20230712.tsv",
    "test": "mmbench_test_20230712.tsv",
    "dev_en": "MMBench_DEV_EN.tsv",
    "test_en": "MMBench_TEST_EN.tsv",
}
SPLITS = tuple(FILES)
LETTERS = "ABCD"
ROTATION = 1_000_000
_MAX_REFERENCE = 64  # a shorter cell names the row that holds the image, as in VLMEvalKit's files
_COLUMNS = ("index", "question", "A", "B", "category", "image", "l2-category", "split")
TsvRow = dict[str, str]


def read_mmbench(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split, rotations and all. Images must have been unpacked with `unpack_images` (or are not checked)."""
    images = ImageFolder(Path(root, "images") if check_images else None)
    return images.whole(_read(root, split=split, images=images))


def _read(root: Path | str, *, split: str, images: ImageFolder) -> Iterator[Sample]:
    seen = OnceOnly("index")
    for place, row in _rows(root, split=split):
        with images.placed(place):
            sample = _sample(row, split=split, images=images)
            seen.add(sample.id)
        yield sample


def unpack_images(root: Path | str, *, split: str) -> int:
    """Write each question's image to `images/<split>/<index>.jpg` below the root and return how many there are.

    A file keeps its bytes, whatever its true format; the suffix is only a name.
    """
    written = set[str]()
    for place, row in _rows(root, split=split):
        with placed(place):
            name, cell = _image_name(row, split=split), row["image"]
            if name in written or len(cell) <= _MAX_REFERENCE:
                continue
            with atomic_write(Path(root, "images", name)) as file:
                file.write(_decoded(cell))
        written.add(name)
    return len(written)


def _rows(root: Path | str, *, split: str) -> Iterator[tuple[str, TsvRow]]:
    path = Path(root, FILES[one_of(split, SPLITS, what="split")])
    for number, row in read_csv(path, delimiter="\t"):
        for column in _COLUMNS:
            if column not in row:
                raise DatasetError(f"{path.name}: there is no column {column!r}; take the official file")
        yield f"{path.name}, line {number} (index {shown(row['index'])})", row


def _sample(row: TsvRow, *, split: str, images: ImageFolder) -> Sample:
    choices = _choices(row)
    index = _index(row["index"])
    return Sample(
        id=str(index),
        image_ids=(images.id(_image_name(row, split=split)),),
        turns=(Turn("user", checked_text(row["question"], what='"question"')),),
        task=row["category"],
        answers=_answers(row, choices=choices),
        source=FILES[split],
        fields={
            "index": str(index % ROTATION),
            "category": row["category"],
            "l2_category": row["l2-category"],
            "question": row["question"],
            "choices": json.dumps(choices, ensure_ascii=False),
            "split": row["split"],
            "hint": checked_text(_present(row.get("hint", "")), what='"hint"'),
        },
    )


def _present(cell: str) -> str:
    """The cell, or "" where the official code takes it as missing."""
    return "" if cell.lower() in ("nan", "none") else cell


def _choices(row: TsvRow) -> list[str]:
    """The options up to the last that is there. "None" is missing at the end, an option's text between others or where
    no question would be left without it."""
    choices = [row.get(letter, "") for letter in LETTERS]
    while len(choices) > 2 and not _present(choices[-1]):
        choices.pop()
    if not all(choices):
        raise DatasetError(f"options must fill A, B, ... without a gap, got {shown(choices)}")
    return [checked_text(choice, what="each option") for choice in choices]


def _answers(row: TsvRow, *, choices: list[str]) -> tuple[str, ...]:
    answer = _present(row.get("answer", ""))
    return (one_of(answer, tuple(LETTERS[: len(choices)]), what='"answer"'),) if answer else ()


def _index(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 12):
        raise DatasetError(f"index must be an integer from 0 on, got {shown(cell)}")
    return int(cell)


def _image_name(row: TsvRow, *, split: str) -> str:
    """The image belongs to the question, so all its rotations have one name."""
    cell = row["image"]
    holder = _index(row["index"] if len(cell) > _MAX_REFERENCE else cell)
    return f"{split}/{holder % ROTATION}.jpg"


def _decoded(cell: str) -> bytes:
    try:
        return base64.b64decode(cell, validate=True)
    except ValueError as error:
        raise DatasetError(f"its image is not base64 ({error}); download the file again") from None
