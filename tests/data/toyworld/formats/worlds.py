"""Small worlds in every format, each written once; their samples, and what is true of them.

Truth is found by string handling alone, from the caption of the scene that a picture shows.
"""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from memvp_data.datasets.chats import read_chats
from memvp_data.datasets.mmbench import unpack_images
from memvp_data.datasets.questions import read_questions
from memvp_data.datasets.table import find_dataset
from memvp_data.samples import Sample, from_id
from memvp_data.toyworld.formats import FORMATS, FormatConfig, write_format
from tests.data.toyworld.test_toyworld_scenes import answer_from_caption

CONFIG = FormatConfig(num_images=5, seed=3)
_FOLDER = TemporaryDirectory(prefix="toyworld-")
OFFICIAL = [name for name in FORMATS if name not in ("messages", "questions")]


@cache
def world(name: str) -> Path:
    """The folder of a format; MMBench's images unpacked, as its reader wants them."""
    root = write_format(name, Path(_FOLDER.name, name), CONFIG)
    for split in find_dataset(name).splits if name == "mmbench" else ():
        unpack_images(root, split=split)
    return root


@cache
def samples(name: str, split: str) -> list[Sample]:
    """What the reader of a dataset makes of a split."""
    if name == "messages":
        return list(read_chats(world(name) / split, image_root=world(name) / "images"))
    if name == "questions":
        return list(read_questions(world(name) / split, image_root=world(name) / "images"))
    return list(find_dataset(name).read(world(name), split=split))


@cache
def captions(name: str) -> dict[str, str]:
    """What each picture shows, by its path below the folder of the format."""
    lines = (world(name) / "scenes.jsonl").read_text().splitlines()
    return {record["image"]: record["caption"] for record in map(json.loads, lines)}


def shown(name: str, sample: Sample) -> str:
    """The caption of a sample's image."""
    folder = "images" if name in ("messages", "questions") else find_dataset(name).images
    (image_id,) = sample.image_ids
    return captions(name)[Path(folder, from_id(image_id)).as_posix()]


def truth(told: str, question: str) -> str:
    """The answer to any form of question that the formats have."""
    if " . " in question:
        told, question = question.split(" . ")
    if " ; is there" in question:
        first, second = question.split(" ; ")
        return "yes" if truth(told, f"{first} ?") == truth(told, second) == "yes" else "no"
    asked, _, rest = question.partition(" ?")
    if rest.endswith(" ?"):
        return "yes" if answer_from_caption(told, f"{asked} ?") == rest.removesuffix(" ?").strip() else "no"
    return answer_from_caption(told, f"{asked} ?" if " ; " in rest else question)


def right_answer(sample: Sample) -> str:
    """What a perfect model says."""
    return Counter(sample.answers).most_common(1)[0][0]
