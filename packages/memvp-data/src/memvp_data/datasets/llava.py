"""LLaVA's own files: the two training sets (a JSON array of conversations) and evaluation questions (JSON Lines).

Training: `blip_laion_cc_sbu_558k.json` and `llava_v1_5_mix665k.json`. Evaluation: question files as
`llava/eval/model_vqa_loader.py` reads them, with the right answers in a file of their own. As in LLaVA's `train.py`
a leading turn of the assistant is dropped and roles must alternate after it. Unlike there, the placeholder `<image>` is
removed from the text: the image reaches the model through its memory, not through its input.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_array, read_json_lines
from memvp_data.samples import Role, Sample, SampleError, Turn, to_id

PLACEHOLDER = "<image>"
_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}


def read_conversations(path: Path | str, *, image_root: Path | str | None) -> Iterator[Sample]:
    """Stream the samples of a training file. A record without "image" is text only.

    `image_root` is the folder that the "image" fields are relative to; images must exist there (None: not checked).
    Raises `DatasetError` naming the record.
    """
    path = Path(path)
    for number, record in enumerate(read_json_array(path)):
        place = f"{path.name}, record {number} (id {record.get('id')!r})"
        try:
            yield _conversation(record, image_root=image_root, source=path.name)
        except (DatasetError, SampleError) as error:
            raise DatasetError(f"{place}: {error}") from None


def read_questions(
    path: Path | str, *, answers: Path | str | None = None, image_root: Path | str | None = None
) -> Iterator[Sample]:
    """Stream evaluation questions {"question_id", "image"?, "text", "category"?}; the category becomes the task.

    `answers` is a file of {"question_id", "answer": str or list of str} that must match the questions one to one.
    Raises `DatasetError` naming the line.
    """
    path, seen = Path(path), set[str]()
    key = None if answers is None else _read_answers(Path(answers))
    for number, record in read_json_lines(path):
        place = f"{path.name}, line {number} (question_id {record.get('question_id')!r})"
        try:
            sample = _question(record, key=key, image_root=image_root, source=path.name)
        except (DatasetError, SampleError) as error:
            raise DatasetError(f"{place}: {error}") from None
        if sample.id in seen:
            raise DatasetError(f"{place}: this question_id was used before; each question needs its own")
        seen.add(sample.id)
        yield sample
    for unasked in (key or {}).keys() - seen:
        raise DatasetError(f"{answers}: answers question {unasked!r}, which {path} does not ask; pair the right files")


def _conversation(record: dict[str, Any], *, image_root: Path | str | None, source: str) -> Sample:
    image_ids = _image_ids(record, image_root=image_root)
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise DatasetError(f'"conversations" must be a list of turns, got {type(turns).__name__}')
    return Sample(
        id=_record_id(record, field="id"),
        image_ids=image_ids,
        turns=_turns(turns, has_image=bool(image_ids)),
        source=source,
    )


def _question(
    record: dict[str, Any], *, key: dict[str, tuple[str, ...]] | None, image_root: Path | str | None, source: str
) -> Sample:
    name, text = _record_id(record, field="question_id"), record.get("text")
    category = record.get("category", "")
    if not isinstance(text, str) or not isinstance(category, str):
        raise DatasetError('"text" and "category" must be strings')
    if key is not None and name not in key:
        raise DatasetError("the answers file has no answer for it; add one or leave the question out")
    image_ids = _image_ids(record, image_root=image_root)
    turn = Turn("user", _without_placeholder(text) if image_ids else text)
    return Sample(
        id=name, image_ids=image_ids, turns=(turn,), task=category, answers=(key or {}).get(name, ()), source=source
    )


def _record_id(record: dict[str, Any], *, field: str) -> str:
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DatasetError(f'"{field}" must be a string or an integer, got {value!r}')
    return to_id(str(value))


def _image_ids(record: dict[str, Any], *, image_root: Path | str | None) -> tuple[str, ...]:
    image = record.get("image")
    if image is None:
        return ()
    if not isinstance(image, str):
        raise DatasetError(f'"image" must be one relative path, got {image!r}')
    name = to_id(image)
    if image_root is not None and not Path(image_root, image).is_file():
        raise DatasetError(f"image {image!r} is not in {image_root}; put it there or take the record out of the file")
    return (name,)


def _turns(turns: list[Any], *, has_image: bool) -> tuple[Turn, ...]:
    parsed = [_turn(turn, has_image=has_image) for turn in turns]
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
    speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if not isinstance(speaker, str) or speaker not in _ROLES or not isinstance(text, str):
        raise DatasetError(f'a turn must be {{"from": "human" or "gpt", "value": text}}, got {str(turn)[:80]!r}')
    # A text-only record may talk about "<image>" (HTML, code): there it is content.
    return Turn(_ROLES[speaker], _without_placeholder(text) if has_image else text)


def _without_placeholder(text: str) -> str:
    return text.replace(PLACEHOLDER, "").strip() if PLACEHOLDER in text else text


def _read_answers(path: Path) -> dict[str, tuple[str, ...]]:
    answers: dict[str, tuple[str, ...]] = {}
    for number, record in read_json_lines(path):
        try:
            name, value = _record_id(record, field="question_id"), record.get("answer")
        except (DatasetError, SampleError) as error:
            raise DatasetError(f"{path.name}, line {number}: {error}") from None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or not all(isinstance(item, str) for item in values):
            raise DatasetError(f'{path.name}, line {number}: "answer" must be a string or a list of strings')
        if name in answers:
            raise DatasetError(f"{path.name}, line {number}: question_id {name!r} is answered twice; keep one answer")
        answers[name] = tuple(values)
    return answers
