"""What every reader asks of a record: fields of the right kind, images that exist, ids that come once.

A wrong answer is a `DatasetError` of one sentence; `placed` puts the file and the record in front of it.
"""

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from os.path import isfile
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError
from memvp_data.ids import SampleError, listed, names_of, to_id
from memvp_data.samples import Sample

MAX_TEXT = 1 << 20  # characters; the longest conversation of the LLaVA files is below 2 ** 18
_MAX_MESSAGE = 500
_IDS = ("id", "question_id")  # some are named by their image
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: Any) -> str:
    """The value as it would stand in Python, cut to what fits into a sentence."""
    return _short.repr(value)


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Turn what is wrong inside the block into a `DatasetError` that begins with the place."""
    try:
        yield
    except (DatasetError, SampleError) as error:
        message = str(error)
        cut = message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 4] + " ..."
        raise DatasetError(f"{place}: {cut}") from None


def text(record: Mapping[str, Any], name: str, *, default: str | None = None) -> str:
    """A string; `default` stands in where the field is missing or null."""
    value = record.get(name)
    if value is None and default is not None:
        return default
    return checked_text(value, what=f'"{name}"')


def checked_text(value: Any, *, what: str) -> str:
    """The value itself if it is a string of at most `MAX_TEXT` characters."""
    if not isinstance(value, str):
        raise DatasetError(f"{what} must be a string, got {shown(value)}")
    if len(value) > MAX_TEXT:
        raise DatasetError(f"{what} has {len(value):,} characters, more than the {MAX_TEXT:,} allowed; shorten it")
    return value


def texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of at least one string."""
    value = record.get(name)
    if not isinstance(value, list) or not value:
        raise DatasetError(f'"{name}" must be a list of strings, got {shown(value)}')
    return tuple(checked_text(item, what=f'each of "{name}"') for item in value)


def whole_number(record: Mapping[str, Any], name: str, *, below: int = 1 << 63) -> int:
    """An integer from 0 up to, but not including, `below`."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        limit = "" if below == 1 << 63 else f" below {below}"
        raise DatasetError(f'"{name}" must be an integer from 0 on{limit}, got {shown(value)}')
    return value


def label(record: Mapping[str, Any], name: str) -> str:
    """A name that a file may write as a string or as an integer."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DatasetError(f'"{name}" must be a string or an integer, got {shown(value)}')
    return str(value)


def said_fields(name: str, said: str) -> dict[str, str]:
    """The field question_id, which predictions give back, of a question whose id is not what the file said."""
    return {} if name == to_id(said) and not names_of([name]) else {"question_id": said}


def one_of(value: str, known: Mapping[str, Any] | tuple[str, ...], *, what: str) -> str:
    """The value itself if it is known."""
    if value not in known:
        raise DatasetError(f"{what} must be one of {', '.join(known)}, got {shown(value)}")
    return value


def check_no_other_image(record: Mapping[str, Any], *, known: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Refuse a record that has none of the `known` fields of an image, but another that looks like the path of one.

    A known field that is empty says that there is no image; `words` are fields that hold text, however it ends.
    """
    if any(name in record for name in known):
        return
    for name, value in record.items():
        if name not in (*_IDS, *words) and isinstance(value, str) and value.lower().endswith(_IMAGE_SUFFIXES):
            raise DatasetError(f"it has no {known[0]!r}, but {name!r} is {shown(value)}; call that {known[0]!r}")


class ImageFolder:
    """The folder that the image names of a dataset are relative to; without a root nothing is looked up.

    A reader hands out `images.whole(samples)`, and its samples are made inside `images.placed(place)` and have their
    image ids from `images.id`: what is missing is then told all at once. Outside of `whole`, `id` raises at the first.
    """

    def __init__(self, root: Path | str | None) -> None:
        self.root = root
        self.id = lru_cache(maxsize=4096)(self._id)  # the questions about an image mostly follow each other
        self._missing: dict[str, str] | None = None
        self._place = ""

    @contextmanager
    def placed(self, place: str) -> Iterator[None]:
        """`placed`, and where an image is missing that is looked up inside."""
        self._place = place
        with placed(place):
            yield

    def whole(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples before the first whose image is missing. All others are then only read for their images.

        Raises `DatasetError` at the end, with the place of the first image, the names of ten and the number of all.
        """
        missing = self._missing = dict[str, str]()
        try:
            for sample in samples:
                if not missing:
                    yield sample
        except DatasetError:
            if not missing:
                raise
        if missing:
            raise DatasetError(f"{next(iter(missing.values()))}: {self._told([*missing])}")

    def _id(self, name: str) -> str:
        """The id of an image, whose file is looked up."""
        image_id = to_id(name)
        if self.root is not None and not isfile(Path(self.root, name)):  # False also for a name that no file can have
            if self._missing is None or not Path(self.root).is_dir():
                raise DatasetError(self._told([name]))
            self._missing.setdefault(name, self._place)
        return image_id

    def _told(self, names: list[str]) -> str:
        if len(names) == 1:
            return f"image {listed(names)} is not in {self.root}; put it there or take the record out of the file"
        missing = f"{len(names):,} images are not in {self.root} ({listed(names)})"
        return f"{missing}; put them there or take their records out of the file"


class OnceOnly:
    """Ids that were met so far."""

    def __init__(self, what: str) -> None:
        self.what, self.seen = what, set[str]()

    def add(self, name: str) -> None:
        """Note an id, or refuse it because it came before."""
        if name in self.seen:
            raise DatasetError(f"this {self.what} {shown(name)} was used before; each record needs its own")
        self.seen.add(name)


class NumberedIds:
    """Ids that a dataset may use several times: the first stays, the second is "name#2", and so on."""

    def __init__(self) -> None:
        self.counts = dict[str, int]()

    def new(self, name: str) -> str:
        """An id that was not given before."""
        candidate = name
        while candidate in self.counts:
            self.counts[name] += 1
            candidate = f"{name}#{self.counts[name]}"
        self.counts[candidate] = 1
        return to_id(candidate)
