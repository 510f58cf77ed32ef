"""The toy world as MMBench: tables with base64 images, a row for every rotation of a question's options.

The files of 2023 hold the image in every row; the later ones (`MMBench_DEV_EN.tsv`) hold it once, and in the other
rows the index of that row.
"""

import base64
import csv
import io

from memvp_data.datasets.mmbench import FILES, LETTERS, ROTATION
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.questions import PLAIN_TASKS, aside, options, plain

COLUMNS = "index question hint A B C D answer category image source l2-category comment split".split()
_ATTRIBUTES = "finegrained_perception (instance-level)"
_CATEGORIES = {
    "colour": ("attribute_recognition", _ATTRIBUTES),
    "shape": ("object_localization", _ATTRIBUTES),
    "count": ("object_localization", _ATTRIBUTES),
    "exist": ("image_scene", "coarse_perception"),
    "compare": ("attribute_comparison", "finegrained_perception (cross-instance)"),
    "spatial": ("spatial_relationship", "finegrained_perception (cross-instance)"),
}


def write_mmbench(album: Album) -> None:
    """Two tables with answers, and two without."""
    for split in FILES:
        questions = [_rotations(album, split=split, number=n) for n in range(album.config.num_test_images)]
        # As in the official files: everything once, then every question with its options moved on by one, and so on.
        passes = [[row for turn, row in question if turn == p] for p in range(len(LETTERS)) for question in questions]
        columns = [name for name in COLUMNS if name != "answer" or split.startswith("dev")]
        album.write(FILES[split], _table([row for rows in passes for row in rows], columns=columns))


def _rotations(album: Album, *, split: str, number: int) -> list[tuple[int, Record]]:
    """(number of the rotation, row) of a question."""
    rng, scene, index = album.rng, album.scene(), 240 + number
    question = plain(rng, scene, task=PLAIN_TASKS[number % len(PLAIN_TASKS)])
    choices = options(rng, question, most=3 + number % 2)
    category, group = _CATEGORIES[question.task]
    shared = {"question": question.text, "hint": aside(question, scene) if number % 2 else "", "source": "toy world"}
    shared |= {"category": category, "l2-category": group, "comment": "nan", "split": split.split("_")[0]}
    image = base64.b64encode(album.pixels(f"images/{split}/{index}.jpg", scene)).decode()
    rows = []
    for turn in range(len(choices)):
        moved = choices[turn:] + choices[:turn]
        row = {"index": index + turn * ROTATION, "answer": LETTERS[moved.index(question.answer)]}
        row["image"] = str(index) if turn and split.endswith("_en") else image
        rows.append((turn, shared | row | dict(zip(LETTERS, moved, strict=False))))
    return rows


def _table(rows: list[Record], *, columns: list[str]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
