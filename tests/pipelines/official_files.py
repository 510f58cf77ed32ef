"""Writes a handful of records in LLaVA's official layout: what a user's own data looks like to the job."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 230), "white": (240, 240, 240)}


def write_official_files(root: Path, *, num_images: int = 8, size: tuple[int, int] = (96, 96)) -> Path:
    """Plain coloured pictures, captions, conversations (one text-only) and test questions below `root`."""
    names = [f"train/{number:03d}.jpg" for number in range(num_images)]
    (root / "images/train").mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, list(COLOURS.values())[number % len(COLOURS)]).save(root / "images" / name)
    colours = [list(COLOURS)[number % len(COLOURS)] for number in range(num_images)]
    pairs = list(zip(names, colours, strict=True))
    captions = [record(f"c{n}", [("<image>\ndescribe", colour)], image=name) for n, (name, colour) in enumerate(pairs)]
    talks = [
        record(f"t{n}", [("<image>\nwhat colour ?", colour)], image=name) for n, (name, colour) in enumerate(pairs)
    ]
    talks.append(record("text", [("what colour is a red star ?", "red")]))
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "talks.json").write_text(json.dumps(talks))
    questions = [
        {"question_id": f"q{n}", "image": name, "text": "what colour ?", "category": "colour"}
        for n, name in enumerate(names)
    ]
    _write_lines(root / "questions.jsonl", questions)
    _write_lines(root / "answers.jsonl", [{"question_id": f"q{n}", "answer": c} for n, c in enumerate(colours)])
    return root


def record(name: str, rounds: Sequence[tuple[str, str]], *, image: str | None = None) -> dict[str, Any]:
    """One record of a conversation file."""
    turns = [{"from": who, "value": text} for asked, said in rounds for who, text in (("human", asked), ("gpt", said))]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data_overrides(root: Path) -> list[str]:
    """Settings that point a recipe at `write_official_files`."""
    files = {
        "data.root": root,
        "data.toyworld": "null",
        "data.stage1.conversations": "captions.json",
        "data.stage1.images": "images",
        "data.stage2.conversations": "talks.json",
        "data.stage2.images": "images",
        "data.test.image.questions": "questions.jsonl",
        "data.test.image.answers": "answers.jsonl",
        "data.test.image.images": "images",
        "data.test.unseen": "null",
        "data.test.text_only": "null",
        "data.test.described": "null",
    }
    return [f"--{name}={value}" for name, value in files.items()]
