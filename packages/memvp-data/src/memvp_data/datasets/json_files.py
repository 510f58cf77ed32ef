"""Read big JSON files record by record: an array of objects, an object of objects, or JSON Lines.

None of them holds the file in memory, and every fault is reported with its file, line and column.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CHUNK = 1 << 20
_MAX_RECORD = 1 << 24  # characters; the longest record of the LLaVA files is below 2 ** 18
_MAX_WHOLE = 64 << 20
_SPACE = " \t\r\n"


class DatasetError(ValueError):
    """A data file or a record of it is missing, malformed or contradicts its images."""


def read_json_array(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a top-level JSON array, in order, with about two chunks of the file in memory."""
    with open_text(path) as file:
        reader = _JsonReader(file, path=path)
        yield from _array(reader)
        reader.expect("")


def read_json_list(path: Path, *, key: str) -> Iterator[dict[str, Any]]:
    """The objects of the array that a top-level object holds under `key`; its other members are stepped over."""
    found = False
    with open_text(path) as file:
        reader = _JsonReader(file, path=path)
        for name in _member_names(reader):
            if name == key:
                found = True
                yield from _array(reader)
            else:
                reader.value()
        reader.expect("")
    if not found:
        raise DatasetError(f'{path}: expected an object with a list "{key}", found none; take the official file')


def read_json_members(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, object) of every member of a top-level object, in order; a name may stand there once only."""
    seen = set[str]()
    with open_text(path) as file:
        reader = _JsonReader(file, path=path)
        for name in _member_names(reader):
            if name in seen:
                raise DatasetError(f"{path}: record {name[:80]!r} is there twice; keep one")
            seen.add(name)
            yield name, reader.record()
        reader.expect("")


def read_json(path: Path) -> Any:
    """The whole value of a file of at most 64 MiB."""
    with open_text(path) as file:
        if path.stat().st_size > _MAX_WHOLE:
            raise DatasetError(
                f"data file {path} has more than {_MAX_WHOLE >> 20} MiB; expected the small official file"
            )
        try:
            return json.loads(read_part(file, size=-1, path=path, line=False))
        except (ValueError, RecursionError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{path}: not a JSON file ({error}); download it again or mend this place") from None


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    with open_text(path) as file:
        number = 0
        while line := read_part(file, size=_MAX_RECORD, path=path):
            number += 1
            if len(line) == _MAX_RECORD:
                raise DatasetError(f"{path}, line {number}: longer than {_MAX_RECORD:,} characters; split the record")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path}, line {number}: not a JSON object ({error}); mend this line") from None
            if not isinstance(record, dict):
                raise DatasetError(f"{path}, line {number}: expected a JSON object, got {type(record).__name__}")
            yield number, record


def open_text(path: Path) -> TextIO:
    """A data file as UTF-8, with or without a byte order mark."""
    if not path.is_file():
        raise DatasetError(f"data file {path} does not exist; download it there or correct the path in the settings")
    try:
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"data file {path} cannot be opened ({error.strerror}); let this user read it") from None


def read_part(file: TextIO, *, size: int, path: Path, line: bool = True) -> str:
    """The next line, or part of it, of at most `size` characters; with `line=False` just so many characters."""
    try:
        return file.readline(size) if line else file.read(size)
    except UnicodeDecodeError as error:
        raise DatasetError(f"data file {path} is not UTF-8 text ({error.reason}); convert it to UTF-8") from None


def _array(reader: "_JsonReader") -> Iterator[dict[str, Any]]:
    reader.expect("[")
    if reader.peek() != "]":
        yield reader.record()
        while reader.peek() == ",":
            reader.expect(",")
            yield reader.record()
    reader.expect("]")


def _member_names(reader: "_JsonReader") -> Iterator[str]:
    """The names of an object's members; the caller reads the value of each before asking for the next."""
    reader.expect("{")
    if reader.peek() != "}":
        yield reader.name()
        while reader.peek() == ",":
            reader.expect(",")
            yield reader.name()
    reader.expect("}")


class _JsonReader:
    """A window over the text of a JSON file that moves forward one token or value at a time."""

    def __init__(self, file: TextIO, *, path: Path) -> None:
        self.file, self.path = file, path
        self.decoder = json.JSONDecoder()
        self.buffer, self.position = "", 0
        self.line, self.column = 1, 1  # of the buffer's first character

    def peek(self) -> str:
        """The next character that is not white space, "" at the end of the file."""
        while True:
            while self.position < len(self.buffer):
                if self.buffer[self.position] not in _SPACE:
                    return self.buffer[self.position]
                self.position += 1
            if not self._grow(_CHUNK):
                return ""

    def expect(self, token: str) -> None:
        """Step over `token`; "" stands for the end of the file."""
        found = self.peek()
        if found != token:
            expected, got = (repr(text) if text else "the end of the file" for text in (token, found))
            raise self._fault(f"expected {expected}, found {got}", at=self.position)
        self.position += len(token)

    def record(self) -> dict[str, Any]:
        """The object that starts at the next character."""
        if self.peek() != "{":
            raise self._fault(f"expected a record '{{', found {self.peek()!r}", at=self.position)
        return self.value()

    def name(self) -> str:
        """The name of a member, with the colon behind it."""
        if self.peek() != '"':
            raise self._fault(f"expected a name in quotes, found {self.peek()!r}", at=self.position)
        name = self.value()
        self.expect(":")
        return name

    def value(self) -> Any:
        """The value that starts at the next character. Reads on, doubling, while it is incomplete."""
        self.peek()
        size = _CHUNK
        while True:
            too_long = len(self.buffer) - self.position > _MAX_RECORD
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.position)
            except (ValueError, RecursionError) as error:
                if too_long or not self._grow(size):
                    at = error.pos if isinstance(error, json.JSONDecodeError) else self.position
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise self._fault(reason, at=at) from None
            else:
                if too_long or not self._may_go_on(end) or not self._grow(size):
                    self.position = end
                    return value
            size *= 2

    def _may_go_on(self, end: int) -> bool:
        """Whether the value before `end` is a number that the window cuts: "1", "1.", "1e" and "1e+" all parse as 1."""
        return self.buffer[end - 1] not in '"]}' and end + len("e+") >= len(self.buffer)

    def _grow(self, size: int) -> bool:
        """Drop what was read and append the next `size` characters; False at the end of the file."""
        text = read_part(self.file, size=size, path=self.path, line=False)
        if text:
            self.line, self.column = self._place(self.position)
            self.buffer, self.position = self.buffer[self.position :] + text, 0
        return bool(text)

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column, both from 1, of a place in the buffer."""
        newlines = self.buffer.count("\n", 0, at)
        return self.line + newlines, at - self.buffer.rfind("\n", 0, at) if newlines else self.column + at

    def _fault(self, reason: str, *, at: int) -> DatasetError:
        line, column = self._place(at)
        return DatasetError(
            f"{self.path}, line {line}, column {column}: malformed JSON ({reason}); "
            "download the file again or mend this place"
        )
