"""VQAv2: the official splits, and Karpathy's re-split of train2014 and val2014 that most fine-tuning papers report.

Source: visualqa.org, files of version 2.0. Licence: CC BY 4.0, images under Flickr's terms of use. Counts: questions
443,757 train, 214,354 val, 447,793 test, 107,394 test-dev; 605,102 / 26,729 / 26,280 in Karpathy's train, val and
test.

To be learnt ("train", "karpathy_train"): the answers are the annotators' distinct ones, each weighted by its soft
score (given by 1, 2, 3, 4 or more of the ten: 0.3, 0.6, 0.9, 1), the best is the assistant's turn. To be scored (the
others): the answers are the ten annotators' raw answers. Fields: answer_type, question_type.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json, read_json_list
from memvp_data.datasets.karpathy import FILE as KARPATHY_FILE
from memvp_data.datasets.karpathy import parts_by_image
from memvp_data.datasets.records import ImageFolder, OnceOnly, one_of, placed, shown, text, whole_number
from memvp_data.samples import Sample, Turn

# Split: COCO's subset.
_OFFICIAL = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
SPLITS = (*_OFFICIAL, "karpathy_train", "karpathy_val", "karpathy_test")
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
NUM_ANNOTATORS = 10
Record = dict[str, Any]


def question_file(subset: str) -> str:
    """Name of the questions about "train2014", "val2014", "test2015" or "test-dev2015"."""
    return f"v2_OpenEnded_mscoco_{subset}_questions.json"


def annotation_file(subset: str) -> str:
    """Name of the answers of "train2014" or "val2014"."""
    return f"v2_mscoco_{subset}_annotations.json"


def read_vqav2(
    root: Path | str, *, split: str, check_images: bool = True, answer_list: Collection[str] | None = None
) -> Iterator[Sample]:
    """Stream a split of the folder that holds the official JSON files and train2014/, val2014/, test2015/.

    With an `answer_list` (see `read_answer_list`) training keeps only the answers on it, as classifiers do; a question
    that loses all of them keeps its most frequent answer with weight 0.
    """
    root = Path(root)
    one_of(split, SPLITS, what="split")
    images = ImageFolder(root if check_images else None)
    return images.whole(_read(root, split=split, images=images, answer_list=answer_list))


def _read(root: Path, *, split: str, images: ImageFolder, answer_list: Collection[str] | None) -> Iterator[Sample]:
    to_learn = split.endswith("train")
    for subset, question, annotation, place in _records(root, split=split):
        with images.placed(place):
            sample = _sample(question, annotation, subset=subset, images=images)
            if annotation is not None and to_learn:
                sample = _to_learn(sample, annotation, answer_list=answer_list)
        yield sample


def read_answer_list(path: Path | str) -> frozenset[str]:
    """The 3,129 frequent answers of `trainval_label2ans.json`, the file of LXMERT and VL-T5."""
    answers = read_json(Path(path))
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DatasetError(f"{path}: expected a list of answers as in trainval_label2ans.json, got {shown(answers)}")
    return frozenset(answers)


def frequent_answers(root: Path | str, *, normalise: Callable[[str], str], min_questions: int = 9) -> frozenset[str]:
    """The answer list made anew: most frequent answers of train and val, normalised, of at least so many questions."""
    counts = Counter[str]()
    for subset in ("train2014", "val2014"):
        path = Path(root, annotation_file(subset))
        for number, annotation in enumerate(read_json_list(path, key="annotations")):
            with placed(f"{path.name}, annotation {number}"):
                counts[normalise(text(annotation, "multiple_choice_answer"))] += 1
    return frozenset(answer for answer, count in counts.items() if count >= min_questions)


def _records(root: Path, *, split: str) -> Iterator[tuple[str, Record, Record | None, str]]:
    """(subset, question, its annotation, place in the files) of a split."""
    part = split.removeprefix("karpathy_")
    if part == split:
        yield from _official(root, subset=_OFFICIAL[split])
        return
    parts = parts_by_image(root / KARPATHY_FILE)
    for subset in ("train2014", "val2014"):
        for record in _official(root, subset=subset):
            image_id = record[1].get("image_id")
            if not isinstance(image_id, int) or image_id not in parts:
                raise DatasetError(
                    f"{record[3]}: image {shown(image_id)} is not in {KARPATHY_FILE}; take files of one release"
                )
            if parts[image_id] == part:
                yield record


def _official(root: Path, *, subset: str) -> Iterator[tuple[str, Record, Record | None, str]]:
    questions = root / question_file(subset)
    if subset.startswith("test"):
        seen = OnceOnly("question_id")
        for number, question in enumerate(read_json_list(questions, key="questions")):
            with placed(f"{questions.name}, question {number}"):
                seen.add(str(whole_number(question, "question_id")))
            yield subset, question, None, f"{questions.name}, question {question['question_id']}"
        return
    for question, annotation in _paired(questions, root / annotation_file(subset)):
        yield subset, question, annotation, f"{questions.name}, question {question['question_id']}"


def _paired(questions: Path, annotations: Path) -> Iterator[tuple[Record, Record]]:
    """Each question with its annotation. Both files have one order; what comes early waits, so any order works."""
    waiting: tuple[dict[int, Record], dict[int, Record]] = ({}, {})
    streams = (
        _numbered(questions, read_json_list(questions, key="questions")),
        _numbered(annotations, read_json_list(annotations, key="annotations")),
    )
    for arrived in zip_longest(*streams):
        for side, item in zip(waiting, arrived, strict=True):
            if item is not None:
                side[item[0]] = item[1]
        for number in {item[0] for item in arrived if item is not None}:
            if number in waiting[0] and number in waiting[1]:
                yield waiting[0].pop(number), waiting[1].pop(number)
    for side, path, other in zip(waiting, (questions, annotations), ("annotation", "question"), strict=True):
        for number in side:
            raise DatasetError(f"{path.name}, question {number}: there is no {other} for it; take files of one release")


def _numbered(path: Path, records: Iterator[Record]) -> Iterator[tuple[int, Record]]:
    seen = set[int]()
    for place, record in enumerate(records):
        with placed(f"{path.name}, record {place}"):
            number = whole_number(record, "question_id")
            if number in seen:
                raise DatasetError(f"question_id {number} was used before; each question needs its own")
        seen.add(number)
        yield number, record


def _sample(question: Record, annotation: Record | None, *, subset: str, images: ImageFolder) -> Sample:
    image_id, folder = whole_number(question, "image_id"), subset.replace("-dev", "")
    if annotation is not None and annotation.get("image_id") != image_id:
        other = shown(annotation.get("image_id"))
        raise DatasetError(f"its annotation is about image {other}, not {image_id}; take files of one release")
    known = {} if annotation is None else {name: text(annotation, name) for name in ("answer_type", "question_type")}
    return Sample(
        id=str(whole_number(question, "question_id")),
        image_ids=(images.id(f"{folder}/COCO_{folder}_{image_id:012d}.jpg"),),
        turns=(Turn("user", text(question, "question")),),
        task=known.get("answer_type", ""),
        answers=() if annotation is None else raw_answers(annotation),
        source=question_file(subset),
        fields=known,
    )


def raw_answers(annotation: Record) -> tuple[str, ...]:
    """What the ten annotators answered, in their order."""
    answers = annotation.get("answers")
    if not isinstance(answers, list) or len(answers) != NUM_ANNOTATORS:
        raise DatasetError(f'"answers" must hold the answers of {NUM_ANNOTATORS} annotators, got {shown(answers)}')
    if not all(isinstance(answer, dict) for answer in answers):
        raise DatasetError(f'each of "answers" must be an object with "answer", got {shown(answers)}')
    return tuple(text(answer, "answer") for answer in answers)


def _to_learn(sample: Sample, annotation: Record, *, answer_list: Collection[str] | None) -> Sample:
    counts = Counter(sample.answers).most_common()
    scores = [(a, SOFT_SCORES[min(n, 4)]) for a, n in counts if answer_list is None or a in answer_list]
    answers, weights = zip(*(scores or [(text(annotation, "multiple_choice_answer"), 0.0)]), strict=True)
    turns = (*sample.turns, Turn("assistant", answers[0]))
    return replace(sample, turns=turns, answers=answers, answer_weights=weights)
