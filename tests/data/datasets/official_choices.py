"""Multiple choice in its official layout: ScienceQA, SQA-I, TVQA, How2QA and MMBench."""

import base64
import csv
from pathlib import Path
from typing import Any

from tests.data.datasets.put_files import image_bytes, put_frames, put_images, put_json, put_lines

Record = dict[str, Any]


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
