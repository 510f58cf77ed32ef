"""Conversations of your own: LLaVA's and ShareGPT's "conversations", TRL's "messages" or "prompt" and "completion".

A .jsonl file holds one record per line, a .json file an array. A record has one of

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
    {"messages": [{"role": "user", "content": text or parts}, {"role": "assistant", "content": ...}]}
    {"prompt": text or messages, "completion": text or messages}

and may have "id" (else its number is taken), "image" or "images": paths below the image root. A part of a content
is {"type": "text", "text": ...}, {"type": "image"} or {"type": "image_url"}; the part of an image names its file
("image", "path", "url") or the record does, in their order. Placeholders `<image>` are removed where the record has
images, a leading turn of the assistant is dropped. A record that speaks of an image and names none is refused: it would
be learnt blind.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_array, read_json_lines
from memvp_data.datasets.kinds import kind_of
from memvp_data.datasets.llava import PLACEHOLDER, announces_image, in_order, without_placeholder
from memvp_data.datasets.records import (
    ImageFolder,
    NumberedIds,
    check_no_other_image,
    checked_text,
    label,
    shown,
)
from memvp_data.samples import Role, Sample, Turn

_SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_IMAGE_PARTS = ("image", "image_url")
Record = dict[str, Any]


def read_chats(path: Path | str, *, image_root: Path | str | None) -> Iterator[Sample]:
    """Stream the conversations of a file; images must exist below `image_root` (None: not checked).

    Raises `DatasetError` naming the record.
    """
    images = ImageFolder(image_root)
    return images.whole(_read(Path(path), images=images))


def _read(path: Path, *, images: ImageFolder) -> Iterator[Sample]:
    ids = NumberedIds()
    for place, number, record in numbered_records(path):
        with images.placed(place):
            record_id = str(number) if record.get("id") is None else label(record, "id")
            spoken = _spoken(record)
            names = _image_names(record, spoken, has_folder=images.root is not None)
            image_ids = tuple(images.id(name) for name in names)
            turns = in_order([_turn(turn, has_image=bool(image_ids)) for turn in spoken])
            sample = Sample(ids.new(record_id), image_ids, turns, source=path.name)
        yield sample


def numbered_records(path: Path) -> Iterator[tuple[str, int, Record]]:
    """(place for a message, number from 0, record) of a JSON array or of JSON Lines, as the suffix says."""
    number = -1
    if kind_of(path, known=("array", "lines")) == "lines":
        for number, (line, record) in enumerate(read_json_lines(path)):
            yield f"{path.name}, line {line}", number, record
    else:
        for number, record in enumerate(read_json_array(path)):
            yield f"{path.name}, record {number}", number, record
    if number < 0:
        raise DatasetError(f"{path.name} holds no records; put some in, or leave the file out")


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
        elif kind not in _IMAGE_PARTS:
            raise DatasetError(f'a part of a content must be of type "text" or "image", got {shown(part)}')


def _image_names(record: Record, spoken: list[Any], *, has_folder: bool) -> list[str]:
    """Paths of the record's images, from its own field or from the parts of its turns, which must agree."""
    value = record.get("images", record.get("image"))
    listed = [] if value is None else value if isinstance(value, list) else [value]
    parts = [part for turn in spoken for part in _image_parts(turn)]
    named = [name for part in parts if (name := _named_by(part)) is not None]
    names = [_path(one) for one in (listed or named)]
    if parts and len(parts) != len(names):
        raise DatasetError(f"it has {len(parts)} parts of images and names {len(names)} images; name one for each part")
    if not names:
        _check_blind(record, spoken, has_folder=has_folder)
    return names


def _image_parts(turn: Any) -> list[dict[str, Any]]:
    said = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
    parts = said if isinstance(said, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") in _IMAGE_PARTS]


def _named_by(part: dict[str, Any]) -> Any:
    """What a part says of its image: {"image": ...}, {"path": ...}, {"url": ...}, {"image_url": {"url": ...}}."""
    return next((part[name] for name in ("image", "image_url", "path", "url") if part.get(name) is not None), None)


def _path(image: Any) -> str:
    """Of a file, as the record names it."""
    if isinstance(image, dict):
        image = image.get("path", image.get("url"))
    path = checked_text(image, what="an image's path")
    scheme = path.partition(":")[0]
    if scheme in ("http", "https", "data"):
        raise DatasetError(f"the image {shown(path)} is no file below the image folder; save it there")
    return path.removeprefix("file://")


def _check_blind(record: Record, spoken: list[Any], *, has_folder: bool) -> None:
    """Refuse a record that names no image and yet speaks of one."""
    if any(announces_image(said) for said in _all_said(spoken)):
        raise DatasetError(f'it says {PLACEHOLDER} and names no image; give "image" its path, or take the words out')
    if has_folder:
        check_no_other_image(record, known=("image", "images"), words=("prompt", "completion"))


def _all_said(spoken: list[Any]) -> Iterator[str]:
    for turn in spoken:
        said = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        texts = [part.get("text") for part in said if isinstance(part, dict)] if isinstance(said, list) else [said]
        yield from (text for text in texts if isinstance(text, str))
