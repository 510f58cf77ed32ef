"""GQA, the balanced questions of version 1.2.

Source: cs.stanford.edu/people/dorarad/gqa (questions1.2.zip, images.zip). Licence: CC BY 4.0, images under those of
COCO and Flickr. Counts: 943,000 questions train, 132,062 val, 12,578 testdev, 95,336 test, about 50.7 thousand
challenge. Papers train on "train_val" (both, in this order) and report testdev; test and challenge have no published
answers.

Fields: structural and semantic, the types of a question, where the file gives them. `isBalanced` must be true: an
unbalanced question does not belong to these splits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_members
from memvp_data.datasets.records import ImageFolder, one_of, shown, text
from memvp_data.samples import Sample, Turn, to_id

_FILES = {name: (name,) for name in ("train", "val", "testdev", "test", "challenge")} | {"train_val": ("train", "val")}
SPLITS = tuple(_FILES)
_TO_LEARN = ("train", "train_val")


def question_file(part: str) -> str:
    """Name of the file of "train", "val", "testdev", "test" or "challenge"."""
    return f"{part}_balanced_questions.json"


def read_gqa(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of the folder that holds the question files and images/; training splits hold answer turns."""
    one_of(split, SPLITS, what="split")
    images = ImageFolder(Path(root, "images") if check_images else None)
    return images.whole(_read(root, split=split, images=images))


def _read(root: Path | str, *, split: str, images: ImageFolder) -> Iterator[Sample]:
    for part in _FILES[split]:
        path = Path(root, question_file(part))
        for name, record in read_json_members(path):
            with images.placed(f"{path.name}, question {shown(name)}"):
                sample = _sample(name, record, images=images, to_learn=split in _TO_LEARN, source=path.name)
            yield sample


def _sample(name: str, record: dict[str, Any], *, images: ImageFolder, to_learn: bool, source: str) -> Sample:
    if record.get("isBalanced") is not True:
        raise DatasetError(f'"isBalanced" must be true, got {shown(record.get("isBalanced"))}; take the balanced file')
    answer = None if "answer" not in record and not to_learn else text(record, "answer")
    question = Turn("user", text(record, "question"))
    return Sample(
        id=to_id(name),
        image_ids=(images.id(f"{text(record, 'imageId')}.jpg"),),
        turns=(question, Turn("assistant", answer)) if to_learn and answer is not None else (question,),
        task=_types(record).get("structural", ""),
        answers=() if answer is None else (answer,),
        source=source,
        fields=_types(record),
    )


def _types(record: dict[str, Any]) -> dict[str, str]:
    types = record.get("types", {})
    if not isinstance(types, dict):
        raise DatasetError(f'"types" must be an object, got {shown(types)}')
    return {name: text(types, name) for name in ("structural", "semantic") if types.get(name) is not None}
