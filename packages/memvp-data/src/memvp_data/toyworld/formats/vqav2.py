"""The toy world as VQAv2: official questions, ten annotators' answers to each, and Karpathy's split of the images.

At most three annotators err, so the true answer always scores 1. The folder is one of COCO Captions as well.
"""

from random import Random
from typing import Any

from memvp_data.datasets.vqav2 import NUM_ANNOTATORS, annotation_file, question_file
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.coco import image_name, write_coco
from memvp_data.toyworld.formats.questions import PLAIN_TASKS, YES_NO, plain, wrong_answers
from memvp_data.toyworld.language import Question
from memvp_data.toyworld.scenes import Scene

QUESTIONS_PER_IMAGE = 3
_ERRING = (0, 0, 0, 1, 2, 3)


def write_vqav2(album: Album) -> None:
    """All of train, val, test and test-dev; only train and val have answers."""
    drawn = write_coco(album)
    for subset in ("train2014", "val2014"):
        asked = [_about(album.rng, number, scene) for number, at, scene in drawn if at == subset]
        _write(album, subset, [pair for pairs in asked for pair in pairs])
    numbers = range(1, album.config.num_test_images + 1)
    asked = [_about(album.rng, n, album.picture(image_name(n, "test2015"))) for n in numbers]
    _write(album, "test2015", [pair for pairs in asked for pair in pairs])
    _write(album, "test-dev2015", [pair for pairs in asked[: len(asked) // 2] for pair in pairs])


def _about(rng: Random, number: int, scene: Scene) -> list[tuple[Record, Record]]:
    """(question, annotation) pairs about an image."""
    pairs = []
    for place, task in enumerate(rng.sample(PLAIN_TASKS, QUESTIONS_PER_IMAGE)):
        question, name = plain(rng, scene, task=task), 1000 * number + place
        asked = {"image_id": number, "question": question.text, "question_id": name}
        pairs.append((asked, _annotation(rng, question) | {"image_id": number, "question_id": name}))
    return pairs


def _annotation(rng: Random, question: Question) -> Record:
    num_erring = rng.choice(_ERRING)
    answers = [question.answer] * (NUM_ANNOTATORS - num_erring)
    answers += [rng.choice(wrong_answers(question)) for _ in range(num_erring)]
    rng.shuffle(answers)
    return {
        "question_type": _question_type(question),
        "answer_type": "number" if question.task == "count" else "yes/no" if question.answer in YES_NO else "other",
        "multiple_choice_answer": question.answer,
        "answers": [
            {"answer": answer, "answer_confidence": "yes" if answer == question.answer else "maybe", "answer_id": n}
            for n, answer in enumerate(answers, start=1)
        ],
    }


def _question_type(question: Question) -> str:
    """The leading words, as in the official file."""
    words = question.text.split()
    return " ".join(words[: 2 if words[1] in ("many", "the") else 3])


def _write(album: Album, subset: str, pairs: list[tuple[Record, Record]]) -> None:
    head: dict[str, Any] = {
        "info": {"description": "toy world", "version": "2.0", "year": 2017},
        "data_type": "mscoco",
        "license": {"url": "", "name": ""},
        "data_subtype": subset,
    }
    questions = [question for question, _ in pairs]
    album.json(question_file(subset), head | {"task_type": "Open-Ended", "questions": questions})
    if not subset.startswith("test"):
        album.json(annotation_file(subset), head | {"annotations": [annotation for _, annotation in pairs]})
