"""Ids of samples and images: a dataset's own names as `[A-Za-z0-9_-]{1,128}`, and back.

webdataset cuts a key at its first dot, and an id must never become a path by itself. `to_id` maps a name into that
alphabet, `from_id` maps it back. A name that does not fit (a letter of Cyrillic takes 8 characters, one of Chinese 12)
is shortened to its beginning and its hash. Such an id holds its name beside it as long as it is an object; samples
tables and the index of shards have a column for it.
"""

import hashlib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_ID = 128
MAX_NAME_BYTES = 4096  # as long as a path may be on Linux
ID_PATTERN = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID}}}")
_LISTED, _LISTED_CHARACTERS = 10, 600

# "_" opens an escape. The frequent characters of file names get one letter, all others their UTF-8 bytes as "_xHH".
_ESCAPES = {"/": "_s", ".": "_d", "_": "_u"}
_UNESCAPES = {escape: character for character, escape in _ESCAPES.items()}
# No escape begins so: an id that was not shortened never looks like one that was.
_HASH_MARK = "_h"
_SHORTENED = re.compile(rf".*{_HASH_MARK}[0-9a-f]{{64}}")


class SampleError(ValueError):
    """A sample, an id or a samples table is not what it must be."""


class ShortenedId(str):
    """The id of a name that is too long for one; equal to its bare text, which does not know the name. See `to_id`."""

    __slots__ = ("name",)

    name: str
    """The dataset's own name."""

    def __reduce_ex__(self, protocol: Any, /) -> tuple[Any, ...]:
        """In another process it knows its name as well."""
        return to_id, (self.name,)


def check_id(name: str) -> str:
    """Return `name` if it is an id, raise `SampleError` if not."""
    if not ID_PATTERN.fullmatch(name):
        raise SampleError(f"id {name!r} is not 1 to 128 of the characters A-Z a-z 0-9 _ - (map names with to_id)")
    return name


def to_id(foreign: str) -> str:
    """Map a dataset's own name ("coco/train2017/01.jpg") to an id; `from_id` gives the name back.

    One that takes more than 128 characters becomes a `ShortenedId`: up to 62 of them, "_h", and the SHA-256 of the
    name's UTF-8. Names that would leave their folder are refused: absolute, or with an empty, "." or ".." segment.
    """
    _check_relative(foreign)
    name = re.sub(r"[^A-Za-z0-9-]", lambda match: _escape(match.group()), foreign)
    return name if len(name) <= MAX_ID else _shortened(foreign, escaped=name)


def from_id(name: str) -> str:
    """The dataset's own name behind an id. Refuses ids that `to_id` cannot have made, so names and ids pair up.

    A shortened id must come with its name, as `read_samples` and `ShardReader` give it.
    """
    if isinstance(name, ShortenedId):
        return name.name
    check_id(name)
    if _SHORTENED.fullmatch(name):
        raise SampleError(
            f"id {name!r} is shortened and does not hold its name; take it as read_samples or ShardReader gives it, "
            'or look the name up in the column "names" of the samples table'
        )
    text = re.sub(r"(?:_x[0-9a-f]{2})+|_.?", lambda match: _unescape(match.group(), name=name), name)
    if to_id(text) != name:
        raise SampleError(f"id {name!r} was not made by to_id: its name {text!r} has the id {to_id(text)!r}")
    return text


def names_of(ids: Iterable[str]) -> dict[str, str]:
    """The name of each of these ids that is shortened."""
    return {str(one): one.name for one in ids if isinstance(one, ShortenedId)}


def with_name(name: str, names: Mapping[str, str]) -> str:
    """The id, with its name if `names` has one, as `names_of` gives them; `SampleError` if that has another id."""
    if name not in names:
        return name
    if (made := to_id(names[name])) != name:
        raise SampleError(f"id {name!r} is said to stand for {names[name]!r}, whose id is {made!r}; write it again")
    return made


def listed(names: Sequence[str]) -> str:
    """The first ten of some names, for a sentence about all of them: at most 600 characters in all."""
    short, first = reprlib.Repr(), names[:_LISTED]
    short.maxstring = _LISTED_CHARACTERS // max(1, len(first))
    return ", ".join(map(short.repr, map(str, first))) + (", ..." if len(names) > _LISTED else "")


def _shortened(foreign: str, *, escaped: str) -> ShortenedId:
    if (num_bytes := len(foreign.encode())) > MAX_NAME_BYTES:
        raise SampleError(
            f"name {foreign[:40]!r}... has {num_bytes:,} bytes, more than the {MAX_NAME_BYTES:,} of a path; shorten it"
        )
    ending = _HASH_MARK + hashlib.sha256(foreign.encode()).hexdigest()
    beginning = re.sub(r"_(x.?)?$", "", escaped[: MAX_ID - len(ending)])  # no half of an escape
    shortened = ShortenedId(beginning + ending)
    shortened.name = foreign
    return shortened


def _check_relative(foreign: str) -> None:
    unsafe = "\\" in foreign or any(ord(character) < 32 for character in foreign)
    if unsafe or any(part in ("", ".", "..") for part in foreign.split("/")):
        raise SampleError(f"name {foreign!r} could leave its folder; use a relative path such as 'train/01.jpg'")


def _escape(character: str) -> str:
    try:
        return _ESCAPES.get(character) or "".join(f"_x{byte:02x}" for byte in character.encode())
    except UnicodeEncodeError:
        raise SampleError(f"name with the lone surrogate {character!r} is not valid text; rename it") from None


def _unescape(escape: str, *, name: str) -> str:
    if escape in _UNESCAPES:
        return _UNESCAPES[escape]
    try:
        return bytes.fromhex(escape.replace("_x", "")).decode()
    except ValueError:
        raise SampleError(f"id {name!r} was not made by to_id: {escape!r} stands for nothing") from None
