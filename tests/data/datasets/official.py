"""Small folders in the exact official layout of each benchmark, made by hand to exercise every branch of its reader.

`write_<dataset>(root)` writes files and images. Texts and numbers are made up; keys, nesting, names, separators and
quirks (two spaces, trailing blank lines, images by reference, "NaN-NaN") are those of the official files.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Record = dict[str, Any]


def put_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def put_lines(path: Path, records: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def image_bytes(suffix: str = ".jpg") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(file, "PNG" if suffix == ".png" else "JPEG")
    return file.getvalue()


def put_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_bytes(Path(name).suffix))


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


SUBJECTS = ("natural science", "social science", "language science")


def scienceqa_problem(number: int) -> Record:
    """Ten problems run through all combinations of subject, hint, image and grade."""
    return {
        "question": f"Which is  heavier, {number}?",
        "choices": ["feather", "brick", "both", "neither", "unknown"][: 2 + number % 4],
        "answer": number % 2,
        "hint": "Look at the table." if number % 3 == 0 else "",
        "image": "image.png" if number % 2 == 0 else None,
        "task": "closed choice",
        "grade": f"grade{number}",
        "subject": SUBJECTS[number % 3],
        "topic": "physics",
        "category": "Matter",
        "skill": "Compare weights",
        "lecture": "Mass is measured.",
        "solution": "A brick has more mass.",
        "split": "train" if number == 11 else "val" if number == 12 else "test",
    }


def write_scienceqa(root: Path) -> None:
    problems = {str(number): scienceqa_problem(number) for number in range(1, 13)}
    tests = [str(number) for number in range(1, 11)]
    splits = {"train": ["11"], "val": ["12"], "test": tests, "trainval": ["11", "12"]}
    put_json(root / "problems.json", problems)
    put_json(root / "pid_splits.json", splits | {"minitrain": ["11"], "minival": ["12"], "minitest": ["1", "2"]})
    captions = {name: "A picture of planets." for name, problem in problems.items() if problem["image"]}
    put_json(root / "captions.json", {"model": "x", "max_length": 64, "num_beams": 4, "captions": captions})
    put_images(root / "images", *(f"{problems[n]['split']}/{n}/image.png" for n in captions))


def write_sqa_i(root: Path) -> None:
    write_scienceqa(root)
    put_json(root / "llava_test_CQM-A.json", [_sqa_record(number) for number in range(1, 11)])


def _sqa_record(number: int) -> Record:
    problem = scienceqa_problem(number)
    options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCDE", problem["choices"], strict=False))
    context = f"Context: {problem['hint']}\n" if problem["hint"] else ""
    image = {"image": f"{number}/image.png"} if problem["image"] else {}
    asked = ("<image>\n" if image else "") + context + problem["question"] + options
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "ABCDE"[problem["answer"]]}]
    return {"id": str(number)} | image | {"conversations": turns}


def write_tvqa(root: Path) -> None:
    clips = ["s01e01_seg01_clip_00", "grey_s06e12_seg02_clip_16", "house_s01e01_seg02_clip_01"]
    lines = [
        _video_line(7, clips[0], 5, 3, ts="1.2-8.4") | {"show_name": "The Big Bang Theory"},
        _video_line(8, clips[1], 5, 0, ts="NaN-NaN") | {"show_name": "Grey's Anatomy"},
        _video_line(9, clips[2], 5, 4, ts="0-3") | {"show_name": "House M.D."},
    ]
    put_lines(root / "ann/tvqa/tvqa_train.jsonl", lines)
    put_lines(root / "ann/tvqa/tvqa_val.jsonl", lines)
    unanswered = [{name: value for name, value in line.items() if name != "answer_idx"} for line in lines]
    put_lines(root / "ann/tvqa/tvqa_test_public.jsonl", unanswered)
    put_lines(
        root / "ann/tv_subtitles.jsonl", [_subtitles(clip, repeat=400 * (n == 2)) for n, clip in enumerate(clips)]
    )
    for clip, num_frames in zip(clips, (10, 64, 90), strict=True):
        put_frames(root / f"vis_features/tv/clip-vit/{clip}.npz", num_frames)


def write_how2qa(root: Path) -> None:
    for split in ("train", "val", "test_public"):
        line = _video_line(3, "1234", 4, 2, ts="5-9")
        put_lines(root / f"ann/how2qa/how2qa_{split}_release.jsonl", [line])
    put_lines(root / "ann/how2_subtitles.jsonl", [_subtitles("1234")])
    put_frames(root / "vis_features/how2/clip-vit/1234.npz", 64)


def _video_line(number: int, clip: str, num_choices: int, answer: int, *, ts: str) -> Record:
    choices = {f"a{n}": f"A cup {n}." for n in range(num_choices)}
    return choices | {"answer_idx": answer, "q": " What does Ann hold? ", "qid": number, "ts": ts, "vid_name": clip}


def _subtitles(clip: str, *, repeat: int = 0) -> Record:
    texts = [" Ann: Hello. ", "( sighs )", *["Bob : And so on ."] * repeat]
    return {"vid_name": clip, "sub": [{"text": text, "start": 0.5, "end": 1.5} for text in texts]}


def put_frames(path: Path, num_frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = np.random.default_rng(num_frames).standard_normal((num_frames, 512)).astype(np.float16)
    np.savez(path, features=features)


def write_mme(root: Path) -> None:
    flat = (
        "code_reasoning color commonsense_reasoning count existence numerical_calculation OCR position text_translation"
    )
    for task in flat.split():
        _put_mme(root / task, root / task, stem="0001", suffix=".jpg" if task == "OCR" else ".png")
    for task in ("artwork", "celebrity", "landmark", "posters", "scene"):
        _put_mme(root / task / "questions_answers_YN", root / task / "images", stem="tt0048", suffix=".jpg")


def _put_mme(texts: Path, images: Path, *, stem: str, suffix: str) -> None:
    texts.mkdir(parents=True, exist_ok=True)
    blank = "\n" if suffix == ".png" else ""
    asked = f"Is it red?  Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo{blank}"
    (texts / f"{stem}.txt").write_text(asked, encoding="utf-8")
    put_images(images, f"{stem}{suffix}")


MMBENCH_COLUMNS = "index question hint A B C D answer category image source l2-category comment split".split()


def mmbench_rows(*, by_reference: bool) -> list[Record]:
    """A question of four options and one of two, each with all its rotations; the second has no hint."""
    rows = []
    for index, options, gold, hint in (
        (241, ["cat", "dog", "car", "tree"], 1, 'Line one\nline "two"'),
        (300, ["yes", "no"], 0, ""),
    ):
        for turn in range(len(options)):
            rotated = options[turn:] + options[:turn]
            answer = "ABCD"[rotated.index(options[gold])]
            image = str(index) if by_reference and turn else base64.b64encode(image_bytes()).decode()
            row = {"index": index + turn * 1_000_000, "question": "What is it?", "hint": hint, "answer": answer}
            row |= {
                "category": "object",
                "l2-category": "finegrained",
                "split": "dev",
                "comment": "nan",
                "image": image,
            }
            rows.append(row | dict(zip("ABCD", rotated, strict=False)))
    return rows


def write_mmbench(root: Path) -> None:
    _put_table(root / "mmbench_dev_20230712.tsv", MMBENCH_COLUMNS, mmbench_rows(by_reference=False))
    _put_table(root / "MMBench_DEV_EN.tsv", MMBENCH_COLUMNS, mmbench_rows(by_reference=True))
    without_answer = [name for name in MMBENCH_COLUMNS if name != "answer"]
    _put_table(root / "mmbench_test_20230712.tsv", without_answer, mmbench_rows(by_reference=False))
    put_images(root / "images", *(f"{split}/{n}.jpg" for split in ("dev", "dev_en", "test") for n in (241, 300)))


def _put_table(path: Path, columns: list[str], rows: list[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_pope(root: Path) -> None:
    for part, count in (("adversarial", 6), ("popular", 6), ("random", 4)):
        lines = [
            {
                "question_id": n + 1,
                "image": "COCO_val2014_000000000042.jpg",
                "text": f"Is there a lamp in the {'imange' if n == 2 else 'image'}?",
                "label": ("yes", "no")[n % 2],
            }
            for n in range(count)
        ]
        put_lines(root / f"coco_pope_{part}.json", lines)
    put_images(root, coco_name(42, "val2014"))


def write_lcs_558k(root: Path) -> None:
    records = [
        talk("000000001", "Describe the picture briefly.\n<image>", "a red bus", image="00000/000000001.jpg"),
        talk("000000002", "<image>\nWhat is this?", "a street", image="00000/000000002.jpg"),
    ]
    put_json(root / "blip_laion_cc_sbu_558k.json", records)
    put_images(root / "images", "00000/000000001.jpg", "00000/000000002.jpg")


MIX_IMAGES = (
    "coco/train2017/000000000009.jpg",
    "vg/VG_100K/1.jpg",
    "vg/VG_100K_2/2.jpg",
    "ocr_vqa/images/0140.jpg",
    "gqa/images/2375429.jpg",
    "textvqa/train_images/0a1b.jpg",
)


def write_llava_665k(root: Path) -> None:
    """Each image root, a text-only record, two rounds, a leading gpt turn, an int id, and ids that repeat."""
    records = [talk("7", "<image>\nWhat?", "A cat.", "Where?", "There.", image=name) for name in MIX_IMAGES]
    records[1]["id"] = 8
    records[2]["conversations"].insert(0, {"from": "gpt", "value": "Hello."})
    records[3]["conversations"][0]["value"] = "What?\n<image>"
    records.append(talk("wgByO4Y_0", "Write <image> in HTML", "<img>") | {"model": ""})
    put_json(root / "llava_v1_5_mix665k.json", records)
    put_images(root, *MIX_IMAGES)


def talk(name: str, *said: str, image: str | None = None) -> Record:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
    return {"id": name} | ({"image": image} if image else {}) | {"conversations": turns}


WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": write_vqav2,
    "gqa": write_gqa,
    "vqav2_vl_t5": write_vqav2_vl_t5,
    "gqa_vl_t5": write_gqa_vl_t5,
    "coco": write_coco,
    "scienceqa": write_scienceqa,
    "sqa_i": write_sqa_i,
    "lcs_558k": write_lcs_558k,
    "llava_665k": write_llava_665k,
    "tvqa": write_tvqa,
    "how2qa": write_how2qa,
    "mme": write_mme,
    "mmbench": write_mmbench,
    "pope": write_pope,
}

GONE = object()
"""As a new value: take the field away."""


def change_json(path: Path, *, at: tuple[Any, ...], to: Any) -> None:
    """Change one value of a JSON file; JSON Lines when its suffix is .jsonl or when it does not parse as one value."""
    content = path.read_text(encoding="utf-8")
    try:
        value, is_lines = json.loads(content), False
    except ValueError:
        value, is_lines = [json.loads(line) for line in content.splitlines()], True
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if to is GONE:
        del inner[at[-1]]
    else:
        inner[at[-1]] = to
    put_lines(path, value) if is_lines else put_json(path, value)
