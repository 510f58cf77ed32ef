"""Conversations of your own: LLaVA's and ShareGPT's "conversations", TRL's "messages" or "prompt" and "completion".

A .jsonl file holds one record per line, any other file a JSON array. A record has one of

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
    {"messages": [{"role": "user", "content": text or parts}, {"role": "assistant", "content": ...}]}
    {"prompt": text or messages, "completion": text or messages}

and may have "id" (else its number is taken), "image" or "images": paths below the image root. A part of a content
is {"type": "text", "text": ...} or {"type": "image"}; which image it is follows from their order. Placeholders
`<image>` are removed where the record has images, a leading turn of the assistant is dropped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_array, read_json_lines
from memvp_data.datasets.llava import in_order, without_placeholder
from memvp_data.datasets.records import ImageFolder, NumberedIds, checked_text, label, placed, shown
from memvp_data.samples import Role, Sample, Turn

_SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
LINE_SUFFIXES = (".jsonl", ".ndjson")
Record = dict[str, Any]


def read_chats(path: Path | str, *, image_root: Path | str | None) -> Iterator[Sample]:
    """Stream the conversations of a file; images must exist below `image_root` (None: not checked).

    Raises `DatasetError` naming the record.
    """
    path, images, ids = Path(path), ImageFolder(image_root), NumberedIds()
    for place, number, record in numbered_records(path):
        with placed(place):
            name = str(number) if record.get("id") is None else label(record, "id")
            image_ids = tuple(images.id(image) for image in _image_names(record))
            turns = in_order([_turn(turn, has_image=bool(image_ids)) for turn in _spoken(record)])
            sample = Sample(ids.new(name), image_ids, turns, source=path.name)
        yield sample


def numbered_records(path: Path) -> Iterator[tuple[str, int, Record]]:
    """(place for a message, number from 0, record) of a JSON array or of JSON Lines, as the suffix says."""
    if path.suffix in LINE_SUFFIXES:
        for number, (line, record) in enumerate(read_json_lines(path)):
            yield f"{path.name}, line {line}", number, record
    else:
        for number, record in enumerate(read_json_array(path)):
            yield f"{path.name}, record {number}", number, record


def _spoken(record: Record) -> list[Any]:
    """The turns, still as the file has them."""
    for name in ("conversations", "messages"):
        if name in record:
            return _messages(record[name], what=name, role="")
    if "prompt" in record and "completion" in record:
        prompt = _messages(record["prompt"], what="prompt", role="user")
        return prompt + _messages(record["completion"], what="completion", role="assistant")
    names = shown(sorted(record)[:12])
    raise DatasetError(f'expected "conversations", "messages" or "prompt" and "completion", got the fields {names}')


def _messages(value: Any, *, what: str, role: str) -> list[Any]:
    if isinstance(value, str) and role:
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise DatasetError(f'"{what}" must be a list of turns, got {shown(value)}')
    return value


def _turn(turn: Any, *, has_image: bool) -> Turn:
    if not isinstance(turn, dict):
        raise DatasetError(f"a turn must be an object, got {shown(turn)}")
    speaker, said = (turn["from"], turn.get("value")) if "from" in turn else (turn.get("role"), turn.get("content"))
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        raise DatasetError(f"a turn must be from one of {', '.join(_SPEAKERS)}, got {shown(speaker)}")
    words = "\n".join(_texts(said)) if isinstance(said, list) else checked_text(said, what="what is said")
    return Turn(_SPEAKERS[speaker], without_placeholder(words) if has_image else words)


def _texts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            yield checked_text(part.get("text"), what='"text"')
        elif kind not in ("image", "image_url"):
            raise DatasetError(f'a part of a content must be of type "text" or "image", got {shown(part)}')


def _image_names(record: Record) -> list[str]:
    value = record.get("images", record.get("image"))
    names = [] if value is None else value if isinstance(value, list) else [value]
    paths = [name.get("path") if isinstance(name, dict) else name for name in names]
    return [checked_text(path, what="an image's path") for path in paths]
