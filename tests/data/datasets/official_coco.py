"""COCO Captions, VQAv2 and GQA in their official layout, and VL-T5's files of the latter two."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.data.datasets.put_files import put_images, put_json

Record = dict[str, Any]


# COCO image id, subset, Karpathy's part, captions.
COCO_IMAGES = (
    (9, "train2014", "train", ["A bus.", " A red bus \n"]),
    (42, "val2014", "restval", ["A cat."]),
    (73, "val2014", "val", ["A dog.", "The dog sits."]),
    (74, "val2014", "test", ["A kite.", "Kites fly."]),
    (133, "val2014", "test", ["A bed.", "The bed, unmade.", "Bed."]),
    (139, "val2014", "test", ["A room.", "Room with a TV."]),
)


def coco_name(number: int, subset: str) -> str:
    return f"{subset}/COCO_{subset}_{number:012d}.jpg"


def write_coco(root: Path) -> None:
    put_json(
        root / "dataset_coco.json", {"images": [_coco_image(n) for n in range(len(COCO_IMAGES))], "dataset": "coco"}
    )
    put_images(root, *(coco_name(number, subset) for number, subset, _, _ in COCO_IMAGES))


def _coco_image(place: int) -> Record:
    number, subset, part, captions = COCO_IMAGES[place]
    sentences = [
        {"tokens": caption.lower().split(), "raw": caption, "imgid": place, "sentid": 10 * place + n}
        for n, caption in enumerate(captions)
    ]
    return {
        "filepath": subset,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "filename": Path(coco_name(number, subset)).name,
        "imgid": place,
        "split": part,
        "sentences": sentences,
        "cocoid": number,
    }


# COCO image id, question, question type, answer type, the ten annotators' answers.
VQA_QUESTIONS = (
    (9, "Is the bus red?", "is the", "yes/no", ["yes"] * 10),
    (42, "What is on the rug?", "what is", "other", ["shoes"] * 4 + ["boots"] * 3 + ["shoe"] * 2 + ["don't know"]),
    (73, "How many dogs?", "how many", "number", ["two"] * 3 + ["2"] * 7),
    (74, "Why is it dark?", "why is", "other", ["its night", "it's night"] + ["night"] * 8),
)


def write_vqav2(root: Path) -> None:
    write_coco(root)
    for subset in ("train2014", "val2014"):
        chosen = [row for row in VQA_QUESTIONS if (row[0] == 9) == (subset == "train2014")]
        put_json(
            root / f"v2_OpenEnded_mscoco_{subset}_questions.json", _vqa_file("questions", map(_vqa_question, chosen))
        )
        put_json(root / f"v2_mscoco_{subset}_annotations.json", _vqa_file("annotations", map(_vqa_annotation, chosen)))
    for subset in ("test2015", "test-dev2015"):
        asked = [{"image_id": 1, "question": "Is it day?", "question_id": 1000}]
        put_json(root / f"v2_OpenEnded_mscoco_{subset}_questions.json", _vqa_file("questions", asked))
    put_images(root, coco_name(1, "test2015"))


def _vqa_file(key: str, records: Iterable[Record]) -> Record:
    info = {"description": "made up", "version": "2.0", "year": 2017}
    head = {"info": info, "task_type": "Open-Ended", "data_type": "mscoco", "license": {"url": "x"}}
    return head | {"data_subtype": "any", key: list(records)}


def _vqa_question(row: tuple) -> Record:
    return {"image_id": row[0], "question": row[1], "question_id": 1000 * row[0]}


def _vqa_annotation(row: tuple) -> Record:
    number, _, question_type, answer_type, answers = row
    return {
        "question_type": question_type,
        "multiple_choice_answer": max(answers, key=answers.count),
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, start=1)
        ],
        "image_id": number,
        "answer_type": answer_type,
        "question_id": 1000 * number,
    }


def gqa_record(
    question: str, answer: str | None, structural: str, *, image: str, group: str | None = "animal"
) -> Record:
    asked: Record = {"imageId": image, "question": question, "isBalanced": True}
    return (
        asked
        if answer is None
        else asked
        | {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "cat (7)"}],
            "entailed": [],
            "equivalent": ["0042"],
            "groups": {"global": group, "local": "14-cat_on,s"},
            "answer": answer,
            "semanticStr": "select: cat (7)",
            "annotations": {"answer": {}, "question": {"3": "7"}, "fullAnswer": {}},
            "types": {"detailed": "relS", "semantic": "rel", "structural": structural},
            "fullAnswer": f"It is {answer}.",
        }
    )


def write_gqa(root: Path) -> None:
    testdev = {
        "0001": gqa_record("Is there a cat?", "yes", "verify", image="n100"),
        "0002": gqa_record("What is the cat on?", "sofa", "query", image="n100", group=None),
        "0003": gqa_record("Is it a cat and black?", "no", "logical", image="n100"),
        "0004": gqa_record("Is it left or right?", "left", "choose", image="n100"),
        "0005": gqa_record("Which is bigger?", "cat", "compare", image="n100"),
    }
    put_json(root / "testdev_balanced_questions.json", testdev)
    put_json(root / "train_balanced_questions.json", {"10": gqa_record("Who sits?", "man", "query", image="2375429")})
    put_json(root / "val_balanced_questions.json", {"11": gqa_record("Who runs?", "girl", "query", image="2375430")})
    put_json(root / "test_balanced_questions.json", {"12": gqa_record("Who?", None, "", image="n200")})
    put_images(root / "images", "n100.jpg", "n200.jpg", "2375429.jpg", "2375430.jpg")


def write_vqav2_vl_t5(root: Path) -> None:
    """A label for each score, an empty one, and the raw answers that VL-T5 keeps beside them."""
    for number, question, question_type, answer_type, answers in VQA_QUESTIONS:
        split = {9: "train", 42: "train", 73: "val", 74: "test"}[number]
        image = coco_name(number, "train2014" if number == 9 else "val2014")
        counts = {} if number == 9 else {answer: answers.count(answer) for answer in answers}
        record = {"question_id": 1000 * number, "question_type": question_type, "answer_type": answer_type}
        record |= {"img_id": Path(image).stem, "sent": question, "is_topk_optimal": True}
        record["label"] = {answer: min(1.0, round(0.3 * count, 1)) for answer, count in counts.items()}
        record["answers"] = [
            {"answer": a, "answer_confidence": "yes", "answer_id": n + 1} for n, a in enumerate(answers)
        ]
        path = root / f"vqa/karpathy_{split}.json"
        put_json(path, [*(json.loads(path.read_text()) if path.is_file() else []), record])
        put_images(root, image)


def write_gqa_vl_t5(root: Path) -> None:
    for number, part in enumerate(("train", "valid", "testdev"), start=1):
        record = {"question_id": f"0{number}", "img_id": f"n{number}", "sent": "What is it?", "label": {"cat": 1.0}}
        put_json(root / f"GQA/{part}.json", [record])
        put_images(root / "images", f"n{number}.jpg")
