"""The toy world as ScienceQA: problems with an image, a hint, both or neither; and LLaVA's questions for SQA-I.

A problem without image tells its scene in words: in the hint or, where there is none, in the question. A hint beside
an image, and the caption of an image, tell of one thing that the question is not about, so the image is needed.
"""

from dataclasses import dataclass

from memvp_data.datasets.scienceqa import CAPTIONS_FILE, LETTERS, PROBLEMS_FILE, SPLITS_FILE, SUBJECTS
from memvp_data.datasets.sqa_i import QUESTIONS_FILE
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.questions import PLAIN_TASKS, aside, options, plain
from memvp_data.toyworld.language import DESCRIBE, caption


@dataclass(frozen=True)
class _Kind:
    """What stands around a question."""

    has_image: bool
    has_hint: bool


_KINDS = (_Kind(True, False), _Kind(False, True), _Kind(True, True), _Kind(False, False))


def write_scienceqa(album: Album) -> None:
    """problems.json, pid_splits.json, captions.json, images and LLaVA's test questions; every second has an image."""
    problems: dict[str, Record] = {}
    captions: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for i in range(2 * (album.config.num_images if split == "train" else album.config.num_test_images)):
            name = str(len(problems) + 1)
            problems[name], beside = _problem(album, _KINDS[i % len(_KINDS)], image=f"images/{split}/{name}/image.png")
            problems[name] |= _school(i, problems[name]) | {"split": split}
            if problems[name]["image"]:
                captions[name] = beside
    album.json(PROBLEMS_FILE, problems)
    album.json(SPLITS_FILE, _splits(problems))
    model = {"model": "toy world", "feature_extractor": "", "tokenizer": "", "max_length": 64, "num_beams": 4}
    album.json(CAPTIONS_FILE, model | {"captions": captions})
    album.json(QUESTIONS_FILE, [_talk(name, p) for name, p in problems.items() if p["split"] == "test"])


def _problem(album: Album, kind: _Kind, *, image: str) -> tuple[Record, str]:
    """A problem, and what its image shows beside what is asked."""
    scene = album.picture(image) if kind.has_image else album.scene()
    question = plain(album.rng, scene, task=album.rng.choice(PLAIN_TASKS))
    told, beside = caption(scene, order=album.rng), aside(question, scene)
    choices = options(album.rng, question, most=album.rng.choice((3, 4, 5)))
    problem = {
        "question": question.text if kind.has_image or kind.has_hint else f"{told} . {question.text}",
        "choices": choices,
        "answer": choices.index(question.answer),
        "hint": (beside if kind.has_image else told) if kind.has_hint else "",
        "image": "image.png" if kind.has_image else None,
        "category": question.task,
        "skill": f"{question.task} of things",
    }
    return problem, beside


def _school(number: int, problem: Record) -> Record:
    """What ScienceQA knows of a problem besides; subjects and grades go round."""
    return {
        "task": "closed choice",
        "grade": f"grade{5 * number % 12 + 1}",
        "subject": SUBJECTS[number % len(SUBJECTS)],
        "topic": "scenes",
        "lecture": DESCRIBE,
        "solution": problem["choices"][problem["answer"]],
    }


def _splits(problems: dict[str, Record]) -> dict[str, list[str]]:
    parts = {split: [n for n, p in problems.items() if p["split"] == split] for split in ("train", "val", "test")}
    parts["trainval"] = parts["train"] + parts["val"]
    return parts | {f"mini{split}": parts[split][:4] for split in ("train", "val", "test")}


def _talk(name: str, problem: Record) -> Record:
    listed = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, problem["choices"], strict=False))
    context = f"Context: {problem['hint']}\n" if problem["hint"] else ""
    image = {"image": f"{name}/image.png"} if problem["image"] else {}
    asked = ("<image>\n" if image else "") + context + problem["question"] + listed
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": LETTERS[problem["answer"]]}]
    return {"id": name} | image | {"conversations": turns}
