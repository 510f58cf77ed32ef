"""LLaVA's own files: the two training sets (a JSON array of conversations) and evaluation questions (JSON Lines).

Training: `blip_laion_cc_sbu_558k.json` and `llava_v1_5_mix665k.json`. Evaluation: question files as
`llava/eval/model_vqa_loader.py` reads them, with the right answers in a file of their own. As in LLaVA's `train.py` a
leading turn of the assistant is dropped and roles must alternate after it. Unlike there, the placeholder `<image>` is
removed from the text: the image reaches the model through its memory, not through its input.

Source: huggingface.co/datasets/liuhaotian/LLaVA-Pretrain and LLaVA-Instruct-150K. Licence: the captions of LCS-558K
are BLIP's on images of LAION, CC3M and SBU, whose own terms hold; the mix is CC BY 4.0 and under OpenAI's terms, its
images under those of COCO, GQA, OCR-VQA, TextVQA and Visual Genome. Counts: 558,128 captions; 665,298 conversations,
of which 40,688 without an image. Ids of the mix repeat; the second of an id gets "#2" behind it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_array, read_json_lines
from memvp_data.datasets.kinds import check_content
from memvp_data.datasets.records import (
    ImageFolder,
    NumberedIds,
    check_no_other_image,
    checked_text,
    label,
    placed,
    said_fields,
    shown,
    text,
    texts,
)
from memvp_data.samples import Role, Sample, Turn, to_id

PLACEHOLDER = "<image>"
_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}


def read_conversations(path: Path | str, *, image_root: Path | str | None) -> Iterator[Sample]:
    """Stream the samples of a training file. A record without "image" is text only.

    `image_root` is the folder that the "image" fields are relative to; images must exist there (None: not checked).
    Raises `DatasetError` naming the record.
    """
    images = ImageFolder(image_root)
    return images.whole(_conversations(Path(path), images=images))


def _conversations(path: Path, *, images: ImageFolder) -> Iterator[Sample]:
    ids, number = NumberedIds(), -1
    for number, record in enumerate(_records(path)):
        with images.placed(f"{path.name}, record {number} (id {shown(record.get('id'))})"):
            sample = _conversation(record, images=images, ids=ids, source=path.name)
        yield sample
    _check_any(number + 1, path=path)


def read_questions(
    path: Path | str, *, answers: Path | str | None = None, image_root: Path | str | None = None
) -> Iterator[Sample]:
    """Stream evaluation questions {"question_id", "image"?, "text", "category"?}; the category becomes the task.

    A .json file is an array as LLaVA's script for ScienceQA writes it: its conversations begin with the question. Where
    a file repeats an id, as LLaVA's for MME and TextVQA do, the second gets "#2" behind it; its field question_id, and
    that of an id too long to be kept, is what the file said. `answers` is a file of {"question_id", "answer": str or
    list of str} that must match the questions one to one; then no id may come twice. Raises `DatasetError` naming the
    line.
    """
    images = ImageFolder(image_root)
    return images.whole(_questions(Path(path), answers=answers, images=images))


def _questions(path: Path, *, answers: Path | str | None, images: ImageFolder) -> Iterator[Sample]:
    key, ids, asked = None if answers is None else _read_answers(Path(answers)), NumberedIds(), set[str]()
    for place, record in _question_records(path):
        with images.placed(f"{path.name}, {place} (question_id {shown(record.get('question_id'))})"):
            sample = _question(record, key=key, images=images, ids=ids, source=path.name)
            asked.add(sample.id)
        yield sample
    for unasked in (key or {}).keys() - asked:
        raise DatasetError(f"{answers}: answers question {unasked!r}, which {path} does not ask; pair the right files")
    _check_any(len(asked), path=path)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    check_content(path)
    yield from read_json_array(path)


def _check_any(count: int, *, path: Path) -> None:
    if not count:
        raise DatasetError(f"{path.name} holds no records; put some in, or leave the file out")


def _question_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) as of a question file."""
    check_content(path)
    if path.suffix.lower() != ".json":
        for number, record in read_json_lines(path):
            yield f"line {number}", record
        return
    for number, record in enumerate(read_json_array(path)):
        turns = record.get("conversations")
        first = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {}
        yield f"record {number}", {**record, "question_id": record.get("id"), "text": first.get("value")}


def _conversation(record: dict[str, Any], *, images: ImageFolder, ids: NumberedIds, source: str) -> Sample:
    image_ids = _image_ids(record, images=images)
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise DatasetError(f'"conversations" must be a list of turns, got {type(turns).__name__}')
    said = [turn["value"] for turn in turns if isinstance(turn, dict) and isinstance(turn.get("value"), str)]
    _check_blind(record, said, image_ids=image_ids, images=images)
    return Sample(
        id=ids.new(label(record, "id")),
        image_ids=image_ids,
        turns=in_order([_turn(turn, has_image=bool(image_ids)) for turn in turns]),
        source=source,
    )


def _question(
    record: dict[str, Any],
    *,
    key: dict[str, tuple[str, ...]] | None,
    images: ImageFolder,
    ids: NumberedIds,
    source: str,
) -> Sample:
    said, image_ids = label(record, "question_id"), _image_ids(record, images=images)
    name = ids.new(said)
    if key is not None and name != to_id(said):
        raise DatasetError(f"this question_id {shown(said)} was used before; with answers each question needs its own")
    if key is not None and name not in key:
        raise DatasetError("the answers file has no answer for it; add one or leave the question out")
    question = text(record, "text")
    _check_blind(record, [question], image_ids=image_ids, images=images)
    return Sample(
        id=name,
        image_ids=image_ids,
        turns=(Turn("user", without_placeholder(question) if image_ids else question),),
        task=text(record, "category", default=""),
        answers=(key or {}).get(name, ()),
        source=source,
        fields=said_fields(name, said),
    )


def _image_ids(record: dict[str, Any], *, images: ImageFolder) -> tuple[str, ...]:
    image = record.get("image")
    if image is None:
        return ()
    if not isinstance(image, str):
        raise DatasetError(f'"image" must be one relative path, got {shown(image)}')
    return (images.id(image),)


def in_order(parsed: list[Turn]) -> tuple[Turn, ...]:
    """The turns as [system,] user, assistant, ...: a leading assistant is dropped, any other order is refused."""
    start = 1 if parsed and parsed[0].role == "system" else 0
    rounds = parsed[start:]
    if rounds and rounds[0].role == "assistant":
        rounds = rounds[1:]
    for index, turn in enumerate(rounds):
        if turn.role != ("user", "assistant")[index % 2]:
            raise DatasetError(f"roles must alternate human, gpt, ..., but a turn of {turn.role!r} is out of place")
    if len(rounds) < 2:
        raise DatasetError("no gpt turn answers a human turn, so there is nothing to learn; take the record out")
    return tuple(parsed[:start] + rounds)


def _turn(turn: Any, *, has_image: bool) -> Turn:
    speaker, said = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if not isinstance(speaker, str) or speaker not in _ROLES or not isinstance(said, str):
        raise DatasetError(f'a turn must be {{"from": "human" or "gpt", "value": text}}, got {shown(turn)}')
    checked_text(said, what='"value"')
    # A text-only record may talk about "<image>" (HTML, code): there it is content.
    return Turn(_ROLES[speaker], without_placeholder(said) if has_image else said)


def _check_blind(record: dict[str, Any], said: list[str], *, image_ids: tuple[str, ...], images: ImageFolder) -> None:
    """Refuse a record that names no image and yet speaks of one: it would be learnt blind."""
    if image_ids:
        return
    if any(map(announces_image, said)):
        raise DatasetError(f'it says {PLACEHOLDER} and has no "image"; give it one, or take the placeholder out')
    if images.root is not None:
        check_no_other_image(record, known=("image",), words=("text", "category", "model"))


def announces_image(said: str) -> bool:
    """Whether it begins or ends with the placeholder; in the middle of a text it may be content (HTML, code)."""
    words = said.strip()
    return words.startswith(PLACEHOLDER) or words.endswith(PLACEHOLDER)


def without_placeholder(said: str) -> str:
    """The words around `<image>`."""
    return said.replace(PLACEHOLDER, "").strip() if PLACEHOLDER in said else said


def _read_answers(path: Path) -> dict[str, tuple[str, ...]]:
    answers: dict[str, tuple[str, ...]] = {}
    for number, record in read_json_lines(path):
        with placed(f"{path.name}, line {number}"):
            name = to_id(label(record, "question_id"))
            if name in answers:
                raise DatasetError(f"question_id {name!r} is answered twice; keep one answer")
            one = record.get("answer")
            answers[name] = (checked_text(one, what='"answer"'),) if isinstance(one, str) else texts(record, "answer")
    return answers
