"""The toy world as the files that LLaVA-1.5 publishes: anything that reads those reads it.

Stage 1 in the layout of `blip_laion_cc_sbu_558k.json`, stage 2 in that of `llava_v1_5_mix665k.json` (several turns per
image, and text-only records), test questions as the JSONL that LLaVA's evaluation reads, answers beside them.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from memvp_data.toyworld.draw import draw_scene
from memvp_data.toyworld.language import DESCRIBE, TASKS, ask, caption
from memvp_data.toyworld.scenes import PairPolicy, Scene, sample_scene

STAGE1_FILE = "blip_laion_cc_sbu_558k.json"
STAGE2_FILE = "llava_v1_5_mix665k.json"
Record = dict[str, Any]

# What takes several look-ups is learnt last, so talks about shown scenes ask more of it.
SHOWN_TASKS = (*TASKS, "count", "exist", "compare", "spatial")
# Counting is what a language model forgets first while it learns to look, so it is half of talks about told scenes.
TOLD_TASKS = (*TASKS, "count", "count", "count", "count", "count")


@dataclass(frozen=True)
class ToyWorldConfig:
    """How much of the toy world to draw. The same config always writes the same bytes."""

    num_train_images: int = 4000
    """Images with a caption (stage 1) and a conversation (stage 2)."""
    num_validation_images: int = 200
    """Images for choosing settings; one question of each task."""
    num_test_images: int = 300
    """Images that nothing is chosen on; one question of each task."""
    num_unseen_images: int = 150
    """Test images with a colour-shape pair that no training image shows, and questions about it."""
    num_text_only: int = 800
    """Text-only conversations in stage 2, their scene told in words."""
    num_text_only_test: int = 300
    """Text-only test scenes; two questions each."""
    questions_per_image: int = 6
    """Turns of one conversation."""
    seed: int = 0
    """Everything is drawn from it."""

    def __post_init__(self) -> None:
        for field in (
            "num_train_images",
            "num_test_images",
            "num_unseen_images",
            "num_text_only_test",
            "questions_per_image",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"toyworld.{field} must be at least 1, got {getattr(self, field)}")


class Scenes:
    """Draws scenes that never repeat, so that the splits are disjoint."""

    def __init__(self, seed: int):
        self.rng, self.told = Random(seed), set[Scene]()

    def draw(self, count: int, *, pairs: PairPolicy) -> list[Scene]:
        fresh: list[Scene] = []
        while len(fresh) < count:
            scene = sample_scene(self.rng, pairs=pairs)
            if scene not in self.told:
                self.told.add(scene)
                fresh.append(scene)
        return fresh


def write_toyworld(folder: Path | str, config: ToyWorldConfig, *, progress: Callable[[int], object] = int) -> Path:
    """Write the toy world below ``folder``, replacing it whole or not at all; ``progress`` is called for each image."""
    folder = Path(folder)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    scenes, rng = Scenes(config.seed), Random(config.seed + 1)
    train = scenes.draw(config.num_train_images, pairs="seen")
    tests: dict[str, tuple[list[Scene], PairPolicy]] = {
        "validation": (scenes.draw(config.num_validation_images, pairs="seen"), "seen"),
        "test": (scenes.draw(config.num_test_images, pairs="seen"), "seen"),
        "unseen": (scenes.draw(config.num_unseen_images, pairs="unseen"), "unseen"),
    }
    _write_images(building / "images", {"train": train} | {k: v[0] for k, v in tests.items()}, config.seed, progress)
    _write_json(building / STAGE1_FILE, [_caption_record(i, scene) for i, scene in enumerate(train)])
    told = scenes.draw(config.num_text_only, pairs="any")
    _write_json(building / STAGE2_FILE, _conversations(rng, train, told, turns=config.questions_per_image))
    for name, (split, held_out) in tests.items():
        _write_questions(building / "test", rng, name, split, held_out=held_out)
    _write_text_only(building / "test", rng, scenes.draw(config.num_text_only_test, pairs="any"))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(building, folder)
    return folder


def _write_images(root: Path, splits: dict[str, list[Scene]], seed: int, progress: Callable[[int], object]) -> None:
    def write(split: str, number: int, scene: Scene) -> None:
        noise = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
        draw_scene(scene, noise).save(root / _image(split, number), quality=95, subsampling=0)

    # Noise and encoding, most of the work, run outside Python's lock.
    with ThreadPoolExecutor() as pool:
        for split, scenes in splits.items():
            (root / split).mkdir(parents=True)
            for _ in pool.map(partial(write, split), range(len(scenes)), scenes):
                progress(1)


def _image(split: str, number: int) -> str:
    return f"{split}/{number:06d}.jpg"


def _caption_record(number: int, scene: Scene) -> Record:
    turns = [("human", f"<image>\n{DESCRIBE}"), ("gpt", caption(scene))]
    return _record(f"{number:09d}", turns, image=_image("train", number))


def _record(name: str, turns: list[tuple[str, str]], *, image: str | None = None) -> Record:
    conversations = [{"from": speaker, "value": text} for speaker, text in turns]
    return {"id": name} | ({"image": image} if image else {}) | {"conversations": conversations}


def _conversations(rng: Random, train: list[Scene], told: list[Scene], *, turns: int) -> list[Record]:
    """Image records and text-only records, shuffled as the official file is."""
    records = []
    for i, scene in enumerate(train):
        spoken = _turns(rng, scene, opening="<image>\n", count=turns, held_out="seen", tasks=SHOWN_TASKS)
        records.append(_record(f"{i:09d}", spoken, image=_image("train", i)))
    for i, scene in enumerate(told):
        told_as = f"{caption(scene, order=rng)} . "
        spoken = _turns(rng, scene, opening=told_as, count=turns, held_out="any", tasks=TOLD_TASKS)
        records.append(_record(f"text_{i:06d}", spoken))
    rng.shuffle(records)
    return records


def _turns(
    rng: Random, scene: Scene, *, opening: str, count: int, held_out: PairPolicy, tasks: tuple[str, ...]
) -> list[tuple[str, str]]:
    drawn = [task for _ in range(-(-count // len(tasks))) for task in rng.sample(tasks, len(tasks))][:count]
    turns: list[tuple[str, str]] = []
    for i, task in enumerate(drawn):
        question = ask(rng, scene, task=task, held_out=held_out)
        turns += [("human", (opening if i == 0 else "") + question.text), ("gpt", question.answer)]
    return turns


def _write_questions(folder: Path, rng: Random, split: str, scenes: list[Scene], *, held_out: PairPolicy) -> None:
    """Image questions; for the test split also the same questions with the scene in words instead of the image."""
    questions: list[Record] = []
    described: list[Record] = []
    answers: list[Record] = []
    for i, scene in enumerate(scenes):
        for task in TASKS:
            question = ask(rng, scene, task=task, held_out=held_out)
            name = f"{split}_{i:06d}_{task}"
            shared: Record = {"question_id": name, "category": question.task}
            questions.append(shared | {"image": _image(split, i), "text": question.text})
            described.append(shared | {"text": f"{caption(scene, order=rng)} . {question.text}"})
            answers.append({"question_id": name, "answer": question.answer})
    prefix = "" if split == "test" else f"{split}_"
    _write_jsonl(folder / f"{prefix}questions.jsonl", questions)
    _write_jsonl(folder / f"{prefix}answers.jsonl", answers)
    if split == "test":
        _write_jsonl(folder / "described_questions.jsonl", described)
        _write_jsonl(folder / "described_answers.jsonl", answers)


def _write_text_only(folder: Path, rng: Random, scenes: list[Scene]) -> None:
    questions, answers = [], []
    for i, scene in enumerate(scenes):
        for k in range(2):
            question = ask(rng, scene, task=rng.choice(TASKS))
            name = f"text_{i:06d}_{k}"
            text = f"{caption(scene, order=rng)} . {question.text}"
            questions.append({"question_id": name, "category": question.task, "text": text})
            answers.append({"question_id": name, "answer": question.answer})
    _write_jsonl(folder / "text_questions.jsonl", questions)
    _write_jsonl(folder / "text_answers.jsonl", answers)


def _write_json(path: Path, records: list[Record]) -> None:
    path.write_text(json.dumps(records), encoding="utf-8")


def _write_jsonl(path: Path, records: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def images_in(config: ToyWorldConfig) -> int:
    """How many images `write_toyworld` will draw."""
    return config.num_train_images + config.num_validation_images + config.num_test_images + config.num_unseen_images
