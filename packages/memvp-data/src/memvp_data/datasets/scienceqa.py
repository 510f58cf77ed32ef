"""ScienceQA: multiple choice about school subjects, with an image, a hint, both or neither.

Source: github.com/lupantech/ScienceQA (problems.json, pid_splits.json, captions.json, images.zip). Licence: CC
BY-NC-SA 4.0. Counts: 12,726 problems train (6,218 with image), 4,241 val (2,097), 4,241 test (2,017); minitrain
1,272, minival and minitest 424 each; trainval is train and val.

The answer is a letter, in training the assistant's turn is "The answer is B."; the user's turn is the bare question.
Fields: subject, grade, has_hint, has_image, choices (JSON list), answer_index, and what a template may want: question,
hint, lecture, solution, caption.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json, read_json_members
from memvp_data.datasets.records import ImageFolder, checked_text, one_of, placed, shown, text, texts, whole_number
from memvp_data.samples import Sample, Turn, to_id

PROBLEMS_FILE, SPLITS_FILE, CAPTIONS_FILE = "problems.json", "pid_splits.json", "captions.json"
SPLITS = ("train", "val", "test", "trainval", "minitrain", "minival", "minitest")
LETTERS = "ABCDE"
SUBJECTS = ("natural science", "social science", "language science")
_FOLDERS = ("train", "val", "test")


def read_scienceqa(
    root: Path | str, *, split: str, check_images: bool = True, captions: bool | None = None
) -> Iterator[Sample]:
    """Stream a split in the order of problems.json. Splits with "train" in their name hold the answer's turn.

    `captions` gives samples with an image the field caption, of captions.json; None does so in splits without answer's
    turn only, as the released code (and LaVIN's) does.
    """
    one_of(split, SPLITS, what="split")
    described = _captions(root) if captions or (captions is None and "train" not in split) else {}
    images = ImageFolder(Path(root, "images") if check_images else None)
    return images.whole(_read(root, split=split, images=images, described=described))


def _read(root: Path | str, *, split: str, images: ImageFolder, described: Mapping[str, str]) -> Iterator[Sample]:
    path, wanted, to_learn = Path(root, PROBLEMS_FILE), problem_ids(root, split=split), "train" in split
    for name, problem in read_json_members(path):
        if name in wanted:
            wanted.remove(name)
            with images.placed(f"{path.name}, problem {shown(name)}"):
                sample = _sample(name, problem, images=images, to_learn=to_learn)
                if name in described:
                    sample = replace(sample, fields={**sample.fields, "caption": described[name]})
            yield sample
    for name in wanted:
        where = f"{SPLITS_FILE} has problem {shown(name)} in {split}"
        raise DatasetError(f"{where}, {path.name} does not; take files of one release")


def problem_ids(root: Path | str, *, split: str) -> set[str]:
    """The ids that pid_splits.json lists for a split."""
    path = Path(root, SPLITS_FILE)
    content = read_json(path)
    with placed(path.name):
        names = texts(content if isinstance(content, dict) else {}, split)
        if len(set(names)) < len(names):
            raise DatasetError(f"{split!r} lists a problem twice; download the file again")
    return set(names)


def problem_fields(problem: Mapping[str, Any]) -> dict[str, str]:
    """What the official breakdown needs, and the texts around the question."""
    choices, hint = texts(problem, "choices"), text(problem, "hint", default="")
    if len(choices) > len(LETTERS):
        raise DatasetError(f'"choices" must be at most {len(LETTERS)}, got {len(choices)}')
    return {
        "subject": one_of(text(problem, "subject"), SUBJECTS, what='"subject"'),
        "grade": one_of(text(problem, "grade"), tuple(f"grade{n}" for n in range(1, 13)), what='"grade"'),
        "has_hint": json.dumps(bool(hint)),
        "has_image": json.dumps(problem.get("image") is not None),
        "choices": json.dumps(choices, ensure_ascii=False),
        "answer_index": str(whole_number(problem, "answer", below=len(choices))),
        "hint": hint,
    }


def _captions(root: Path | str) -> dict[str, str]:
    path = Path(root, CAPTIONS_FILE)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; download it there or read with captions=False")
    content = read_json(path)
    captions = content.get("captions") if isinstance(content, dict) else None
    if not isinstance(captions, dict):
        raise DatasetError(f'{path}: expected an object "captions" of captions by problem id, got {shown(captions)}')
    with placed(path.name):
        return {name: checked_text(caption, what="each caption") for name, caption in captions.items()}


def _sample(name: str, problem: dict[str, Any], *, images: ImageFolder, to_learn: bool) -> Sample:
    fields, asked = problem_fields(problem), text(problem, "question")
    letter = LETTERS[int(fields["answer_index"])]
    around = {field: text(problem, field, default="") for field in ("lecture", "solution")}
    answer = [Turn("assistant", f"The answer is {letter}.")] if to_learn else []
    return Sample(
        id=to_id(name),
        image_ids=_image_ids(name, problem, images=images),
        turns=(Turn("user", asked), *answer),
        task=fields["subject"],
        answers=(letter,),
        source=PROBLEMS_FILE,
        fields={**fields, **around, "question": asked},
    )


def _image_ids(name: str, problem: dict[str, Any], *, images: ImageFolder) -> tuple[str, ...]:
    if problem.get("image") is None:
        return ()
    folder = one_of(text(problem, "split"), _FOLDERS, what='"split"')
    return (images.id(f"{folder}/{name}/{text(problem, 'image')}"),)
