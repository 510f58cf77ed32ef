"""Samples out as LLaVA's files, which a recipe takes as they are: conversations to learn, questions and their answers.

What `llava.py` reads from these files are the samples again, except for what the files have no place for: sources,
answer weights and fields, and white space at the ends of a turn beside an image.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.llava import PLACEHOLDER
from memvp_data.files.atomic import atomic_write
from memvp_data.samples import Sample, from_id

_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def write_conversations(path: Path | str, samples: Iterable[Sample]) -> int:
    """Write a JSON array of conversations, one record a line, and return their number."""
    count = 0
    with atomic_write(Path(path)) as file:
        file.write(b"[")
        for sample in samples:
            file.write(b",\n" if count else b"\n")
            count += 1
            file.write(json.dumps(_conversation(sample), ensure_ascii=False).encode())
        file.write(b"\n]\n")
    return count


def write_questions(path: Path | str, samples: Iterable[Sample], *, answers: Path | str) -> int:
    """Write the last user turn of each sample as a question line, its answers to a file of their own."""
    count = 0
    with atomic_write(Path(path)) as questions, atomic_write(Path(answers)) as key:
        for sample in samples:
            question, answer = _question(sample)
            count += 1
            questions.write((json.dumps(question, ensure_ascii=False) + "\n").encode())
            key.write((json.dumps(answer, ensure_ascii=False) + "\n").encode())
    return count


def _conversation(sample: Sample) -> dict[str, Any]:
    return {"id": from_id(sample.id), **_image(sample), "conversations": list(_turns(sample))}


def _turns(sample: Sample) -> Iterator[dict[str, str]]:
    opening = f"{PLACEHOLDER}\n" if sample.image_ids else ""
    for turn in sample.turns:
        yield {"from": _SPEAKERS[turn.role], "value": (opening if turn.role == "user" else "") + turn.text}
        opening = "" if turn.role == "user" else opening


def _question(sample: Sample) -> tuple[dict[str, Any], dict[str, Any]]:
    asked = [turn.text for turn in sample.turns if turn.role == "user"]
    if len(asked) != 1 or not sample.answers:
        found = f"{len(asked)} questions and {len(sample.answers)} answers"
        raise DatasetError(f"sample {sample.id!r} must have one question and its answers, got {found}")
    name = {"question_id": from_id(sample.id)}
    question = {**name, **_image(sample), "text": asked[0], "category": sample.task}
    return question, {**name, "answer": list(sample.answers)}


def _image(sample: Sample) -> dict[str, str]:
    if len(sample.image_ids) > 1:
        raise DatasetError(f"sample {sample.id!r} has {len(sample.image_ids)} images; LLaVA's files hold one a record")
    return {"image": from_id(sample.image_ids[0])} if sample.image_ids else {}
