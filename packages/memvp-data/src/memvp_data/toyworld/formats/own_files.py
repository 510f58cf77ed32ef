"""The toy world as files of your own: TRL's "messages" and "prompt" with "completion", and a CSV of questions.

Names of images in the files are relative to images/.
"""

import csv
import io
from typing import Any

from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.llava import talk
from memvp_data.toyworld.formats.questions import PLAIN_TASKS, plain

MESSAGES_FILE, PROMPTS_FILE = "messages.jsonl", "prompt_completion.jsonl"
QUESTION_FILES = {"train": "train.csv", "test": "test.csv"}


def write_messages(album: Album) -> None:
    """The same talks twice: whole, and as their first question and its answer. The image is a part of the first."""
    whole, first = [], []
    for i in range(album.config.num_images):
        image = f"{i:06d}.jpg"
        said = talk(album.rng, album.picture(f"images/{image}"), "")
        turns = [_turn(n, text) for n, text in enumerate(said)]
        whole.append({"messages": turns, "images": [image]})
        first.append({"prompt": turns[:1], "completion": turns[1:2], "images": [image]})
    album.lines(MESSAGES_FILE, whole)
    album.lines(PROMPTS_FILE, first)


def write_questions(album: Album) -> None:
    """One question of each plain task about every image, with the columns id, image, question, answer, task."""
    for split, file in QUESTION_FILES.items():
        rows = []
        for i in range(album.config.num_images if split == "train" else album.config.num_test_images):
            image = f"{split}/{i:06d}.jpg"
            scene = album.picture(f"images/{image}")
            asked = [plain(album.rng, scene, task=task) for task in PLAIN_TASKS]
            rows += [(f"{split}-{i}-{n}", image, q.text, q.answer, q.task) for n, q in enumerate(asked)]
        album.write(file, _table([("id", "image", "question", "answer", "task"), *rows]))


def _turn(number: int, text: str) -> Record:
    content: Any = text if number else [{"type": "image"}, {"type": "text", "text": text}]
    return {"role": ("user", "assistant")[number % 2], "content": content}


def _table(rows: list[tuple[str, ...]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode()
