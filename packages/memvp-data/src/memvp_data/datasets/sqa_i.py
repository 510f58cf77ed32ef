"""SQA-I: ScienceQA's test split with LLaVA's prompts; the number that LLaVA reports is about its questions with image.

Source: LLaVA's `llava_test_CQM-A.json` (eval.zip) in the folder of ScienceQA, see scienceqa.py for its licence.
Counts: 4,241 questions, 2,017 with an image.

The user's turn is LLaVA's text (context, question, "A. option" lines) without `<image>`; answer and fields are those
of scienceqa.py, taken from problems.json. An image has the same id as there.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_array, read_json_members
from memvp_data.datasets.llava import without_placeholder
from memvp_data.datasets.records import ImageFolder, OnceOnly, label, one_of, placed, shown, text
from memvp_data.datasets.scienceqa import LETTERS, PROBLEMS_FILE, problem_fields, problem_ids
from memvp_data.samples import Sample, Turn, to_id

QUESTIONS_FILE = "llava_test_CQM-A.json"
SPLITS = ("test",)


def read_sqa_i(root: Path | str, *, split: str = "test", check_images: bool = True) -> Iterator[Sample]:
    """Stream LLaVA's questions about the test split, those without image among them (field has_image)."""
    one_of(split, SPLITS, what="split")
    images = ImageFolder(Path(root, "images") if check_images else None)
    return images.whole(_read(root, images=images))


def _read(root: Path | str, *, images: ImageFolder) -> Iterator[Sample]:
    path, known, seen = Path(root, QUESTIONS_FILE), _test_fields(root), OnceOnly("id")
    for number, record in enumerate(read_json_array(path)):
        with images.placed(f"{path.name}, record {number} (id {shown(record.get('id'))})"):
            name = label(record, "id")
            if name not in known:
                raise DatasetError(f"the test split of {PROBLEMS_FILE} does not have it; take files of one release")
            seen.add(name)
            sample = _sample(name, record, fields=known[name], images=images)
        yield sample


def _test_fields(root: Path | str) -> dict[str, dict[str, str]]:
    path, wanted, known = Path(root, PROBLEMS_FILE), problem_ids(root, split="test"), dict[str, dict[str, str]]()
    for name, problem in read_json_members(path):
        if name in wanted:
            with placed(f"{path.name}, problem {shown(name)}"):
                known[name] = problem_fields(problem)
    return known


def _sample(name: str, record: dict[str, Any], *, fields: Mapping[str, str], images: ImageFolder) -> Sample:
    letter, has_image = LETTERS[int(fields["answer_index"])], record.get("image") is not None
    question, answer = _human_and_gpt(record)
    if answer != letter:
        raise DatasetError(
            f"its answer is {shown(answer)} and {letter!r} in {PROBLEMS_FILE}; take files of one release"
        )
    return Sample(
        id=to_id(name),
        image_ids=(images.id(f"test/{text(record, 'image')}"),) if has_image else (),
        turns=(Turn("user", without_placeholder(question)),),
        task=fields["subject"],
        answers=(letter,),
        source=QUESTIONS_FILE,
        fields={**fields, "has_image": json.dumps(has_image)},
    )


def _human_and_gpt(record: dict[str, Any]) -> tuple[str, str]:
    turns = record.get("conversations")
    if not isinstance(turns, list) or [turn.get("from") if isinstance(turn, dict) else None for turn in turns] != [
        "human",
        "gpt",
    ]:
        raise DatasetError(f'"conversations" must be one human and one gpt turn, got {shown(turns)}')
    return text(turns[0], "value"), text(turns[1], "value")
