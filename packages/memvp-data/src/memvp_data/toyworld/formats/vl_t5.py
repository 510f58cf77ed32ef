"""The toy world as the files that LXMERT and VL-T5 made of VQAv2 and GQA, beside the official ones."""

import json
from collections import Counter
from typing import Any

from memvp_data.datasets import gqa as gqa_reader
from memvp_data.datasets import vqav2 as vqav2_reader
from memvp_data.datasets.karpathy import FILE, parts_by_image
from memvp_data.datasets.vl_t5 import gqa_files, vqa_file
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.gqa import write_gqa
from memvp_data.toyworld.formats.vqav2 import write_vqav2

ANSWER_LISTS = ("vqa/trainval_label2ans.json", "vqa/trainval_ans2label.json")
_GQA_PARTS = {"train": "train", "valid": "val", "testdev": "testdev"}


def write_vqav2_of_vl_t5(album: Album) -> None:
    """The questions of both official files by Karpathy's parts, with soft scores and the list of all answers."""
    write_vqav2(album)
    parts = parts_by_image(album.root / FILE)
    records: dict[str, list[Record]] = {vqa_file(f"karpathy_{part}"): [] for part in ("train", "val", "test")}
    for subset in ("train2014", "val2014"):
        questions = _json(album, vqav2_reader.question_file(subset))["questions"]
        annotations = _json(album, vqav2_reader.annotation_file(subset))["annotations"]
        for question, annotation in zip(questions, annotations, strict=True):
            part = parts[question["image_id"]]
            records[vqa_file(f"karpathy_{part}")].append(_vqa(question, annotation, subset=subset, part=part))
    for name, content in records.items():
        album.json(name, content)
    answers = [
        "",
        *sorted({answer for content in records.values() for record in content for answer in record["label"]}),
    ]
    album.json(ANSWER_LISTS[0], answers)
    album.json(ANSWER_LISTS[1], {answer: place for place, answer in enumerate(answers)})


def write_gqa_of_vl_t5(album: Album) -> None:
    """The same questions as in the balanced files, under their ids."""
    write_gqa(album)
    for split, part in _GQA_PARTS.items():
        records = _json(album, gqa_reader.question_file(part))
        (name,) = gqa_files(split)
        album.json(name, [_gqa(question_id, record) for question_id, record in records.items()])


def _json(album: Album, name: str) -> Any:
    return json.loads((album.root / name).read_bytes())


def _vqa(question: Record, annotation: Record, *, subset: str, part: str) -> Record:
    counts = Counter(answer["answer"] for answer in annotation["answers"])
    record = {
        "question_id": question["question_id"],
        "question_type": annotation["question_type"],
        "answer_type": annotation["answer_type"],
        "img_id": f"COCO_{subset}_{question['image_id']:012d}",
        "sent": question["question"],
        "label": {answer: vqav2_reader.SOFT_SCORES[min(number, 4)] for answer, number in counts.items()},
        "answers": annotation["answers"],
    }
    return record | ({"is_topk_optimal": True} if part == "test" else {})


def _gqa(question_id: str, record: Record) -> Record:
    label = {record["answer"]: 1.0}
    return {"question_id": question_id, "img_id": record["imageId"], "sent": record["question"], "label": label}
