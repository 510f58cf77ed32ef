"""VQAv2 and GQA in the files that LXMERT made of them, and VL-T5, VL-Adapter and VL-PET train on.

Source: the data folder of github.com/j-min/VL-T5, `vqa/karpathy_{train,val,test}.json` and
`GQA/{train,valid,testdev}.json`; licences are those of vqav2.py and gqa.py. Counts: 605,102 / 26,729 / 26,280 and
943,000 / 132,062 / 12,578 questions.

The questions are those of the official readers, with one difference that the baselines of Table 1 rest on: a label
holds only the 3,129 frequent answers of VQAv2, so a question to learn may have none; its answer is then empty, with
weight 0. VQAv2 is scored by the ten raw answers, which VL-T5's copies have and LXMERT's have not.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_array
from memvp_data.datasets.records import ImageFolder, OnceOnly, checked_text, label, one_of, placed, shown, text
from memvp_data.datasets.vqav2 import raw_answers
from memvp_data.samples import Sample, Turn, to_id

VQA_SPLITS = ("karpathy_train", "karpathy_val", "karpathy_test")
_GQA_FILES = {"train": ("train",), "valid": ("valid",), "train_valid": ("train", "valid"), "testdev": ("testdev",)}
GQA_SPLITS = tuple(_GQA_FILES)
_SUBSETS = ("train2014", "val2014")
Record = dict[str, Any]


def vqa_file(split: str) -> str:
    """Name of the file of a split of VQAv2."""
    return f"vqa/{split}.json"


def gqa_files(split: str) -> tuple[str, ...]:
    """Names of the files of a split of GQA."""
    return tuple(f"GQA/{part}.json" for part in _GQA_FILES[one_of(split, GQA_SPLITS, what="split")])


def read_vqav2_of_vl_t5(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of the folder that holds vqa/, train2014/ and val2014/."""
    path = Path(root, vqa_file(one_of(split, VQA_SPLITS, what="split")))
    images = ImageFolder(root if check_images else None)
    return images.whole(_read_vqa(path, images=images, to_learn=split.endswith("train")))


def _read_vqa(path: Path, *, images: ImageFolder, to_learn: bool) -> Iterator[Sample]:
    for place, record in _records(path):
        with images.placed(place):
            sample = _vqa_sample(record, images=images, to_learn=to_learn, source=path.name)
        yield sample


def read_gqa_of_vl_t5(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of the folder that holds GQA/ and images/; all but testdev hold the answer's turn."""
    images = ImageFolder(Path(root, "images") if check_images else None)
    return images.whole(_read_gqa(root, gqa_files(split), images=images, to_learn=split != "testdev"))


def _read_gqa(root: Path | str, names: Iterable[str], *, images: ImageFolder, to_learn: bool) -> Iterator[Sample]:
    for name in names:
        for place, record in _records(Path(root, name)):
            with images.placed(place):
                sample = _gqa_sample(record, images=images, to_learn=to_learn, source=name)
            yield sample


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    seen = OnceOnly("question_id")
    for number, record in enumerate(read_json_array(path)):
        place = f"{path.name}, record {number} (question_id {shown(record.get('question_id'))})"
        with placed(place):
            seen.add(label(record, "question_id"))
        yield place, record


def _vqa_sample(record: Record, *, images: ImageFolder, to_learn: bool, source: str) -> Sample:
    image, question = text(record, "img_id"), Turn("user", text(record, "sent"))
    subset = one_of(image.removeprefix("COCO_").split("_")[0], _SUBSETS, what="COCO's subset")
    scores = _scores(record) or {"": 0.0}
    best = max(scores, key=scores.__getitem__)
    return Sample(
        id=to_id(label(record, "question_id")),
        image_ids=(images.id(f"{subset}/{image}.jpg"),),
        turns=(question, Turn("assistant", best)) if to_learn else (question,),
        task=text(record, "answer_type"),
        answers=tuple(scores) if to_learn else raw_answers(record),
        source=source,
        answer_weights=tuple(scores.values()) if to_learn else (),
        fields={name: text(record, name) for name in ("answer_type", "question_type")},
    )


def _gqa_sample(record: Record, *, images: ImageFolder, to_learn: bool, source: str) -> Sample:
    scores, question = _scores(record), Turn("user", text(record, "sent"))
    if len(scores) != 1:
        raise DatasetError(f'"label" must be one answer with its score, got {shown(scores)}')
    (answer,) = scores
    return Sample(
        id=to_id(label(record, "question_id")),
        image_ids=(images.id(f"{text(record, 'img_id')}.jpg"),),
        turns=(question, Turn("assistant", answer)) if to_learn else (question,),
        answers=(answer,),
        source=source,
    )


def _scores(record: Record) -> dict[str, float]:
    scores = record.get("label")
    if not isinstance(scores, dict):
        raise DatasetError(f'"label" must be an object of scores by answer, got {shown(scores)}')
    for answer, score in scores.items():
        checked_text(answer, what="an answer")
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise DatasetError(f"the score of {shown(answer)} must be a number from 0 to 1, got {shown(score)}")
    return {answer: float(score) for answer, score in scores.items()}
