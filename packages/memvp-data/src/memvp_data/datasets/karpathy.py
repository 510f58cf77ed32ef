"""Karpathy's split of COCO, `dataset_coco.json`: which image is in which part, and its captions.

Source: cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip). The file is an object with a list
"images" of {"filepath", "filename", "cocoid", "split", "sentences"}; its parts are train, restval, val and test, and
"restval" is trained on together with "train".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_list
from memvp_data.datasets.records import OnceOnly, one_of, placed, shown, text, whole_number

FILE = "dataset_coco.json"
_PARTS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class CocoImage:
    """One image of the file."""

    coco_id: int
    """COCO's number of the image."""
    name: str
    """"val2014/COCO_val2014_000000000042.jpg"."""
    part: str
    """"train" (restval among it), "val" or "test"."""
    captions: tuple[tuple[int, str], ...]
    """(sentence id, caption without white space around it)."""


def read_karpathy(path: Path) -> Iterator[CocoImage]:
    """Stream the images of the file. Raises `DatasetError` naming the image."""
    seen = OnceOnly("cocoid")
    for number, record in enumerate(read_json_list(path, key="images")):
        with placed(f"{path.name}, image {number} (cocoid {shown(record.get('cocoid'))})"):
            image = _image(record)
            seen.add(str(image.coco_id))
        yield image


def parts_by_image(path: Path) -> dict[int, str]:
    """ "train", "val" or "test" by COCO's number of the image."""
    return {image.coco_id: image.part for image in read_karpathy(path)}


def _image(record: dict[str, Any]) -> CocoImage:
    sentences = record.get("sentences")
    if not isinstance(sentences, list) or not sentences or not all(isinstance(item, dict) for item in sentences):
        raise DatasetError(f'"sentences" must be a list of at least one object, got {shown(sentences)}')
    return CocoImage(
        coco_id=whole_number(record, "cocoid"),
        name=f"{text(record, 'filepath')}/{text(record, 'filename')}",
        part=_PARTS[one_of(text(record, "split"), _PARTS, what='"split"')],
        captions=tuple((whole_number(item, "sentid"), text(item, "raw").strip()) for item in sentences),
    )
