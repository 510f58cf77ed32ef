"""POPE: yes-or-no questions about objects in 500 images of COCO val2014, in three splits of rising difficulty.

Source: github.com/RUCAIBox/POPE, output/coco. Licence: MIT, images under Flickr's terms of use. Counts: 3,000
questions each in adversarial, popular and random; the random file that LLaVA's results rest on has 2,910. The files
are JSON Lines in spite of their names. Split "test" is all three, one after the other; field pope_split says which.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import read_json_lines
from memvp_data.datasets.records import ImageFolder, OnceOnly, one_of, shown, text, whole_number
from memvp_data.samples import Sample, Turn, to_id

PARTS = ("adversarial", "popular", "random")
SPLITS = (*PARTS, "test")


def question_file(part: str) -> str:
    """Name of the file of a part."""
    return f"coco_pope_{part}.json"


def read_pope(root: Path | str, *, split: str = "test", check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of the folder that holds the three files and val2014/. Sample ids are "<part>-<question_id>"."""
    one_of(split, SPLITS, what="split")
    images = ImageFolder(root if check_images else None)
    return images.whole(_read(root, split=split, images=images))


def _read(root: Path | str, *, split: str, images: ImageFolder) -> Iterator[Sample]:
    for part in PARTS if split == "test" else (split,):
        path, seen = Path(root, question_file(part)), OnceOnly("question_id")
        for number, record in read_json_lines(path):
            with images.placed(f"{path.name}, line {number} (question_id {shown(record.get('question_id'))})"):
                sample = _sample(record, part=part, images=images)
                seen.add(sample.id)
            yield sample


def _sample(record: dict[str, Any], *, part: str, images: ImageFolder) -> Sample:
    return Sample(
        id=to_id(f"{part}-{whole_number(record, 'question_id')}"),
        image_ids=(images.id(f"val2014/{text(record, 'image')}"),),
        turns=(Turn("user", text(record, "text")),),
        task=part,
        answers=(one_of(text(record, "label"), ("yes", "no"), what='"label"'),),
        source=question_file(part),
        fields={"pope_split": part},
    )
