"""Read big JSON files record by record: a top-level array of objects, or one object per line (JSON Lines).

Neither holds the file in memory, and every fault is reported with its file, line and column.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CHUNK = 1 << 20
_MAX_RECORD = 1 << 24  # characters; the longest record of the LLaVA files is below 2 ** 18
_SPACE = " \t\r\n"


class DatasetError(ValueError):
    """A data file or a record of it is missing, malformed or contradicts its images."""


def read_json_array(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a top-level JSON array, in order, with about two chunks of the file in memory."""
    with _open(path) as file:
        reader = _ArrayReader(file, path=path)
        reader.expect("[")
        if reader.peek() == "]":
            reader.expect("]")
        else:
            yield reader.record()
            while reader.peek() == ",":
                reader.expect(",")
                yield reader.record()
            reader.expect("]")
        reader.expect("")


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    with _open(path) as file:
        number = 0
        while line := _read(file, size=_MAX_RECORD, path=path):
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


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise DatasetError(f"data file {path} does not exist; download it there or correct the path in the settings")
    return path.open(encoding="utf-8-sig")


def _read(file: TextIO, *, size: int, path: Path, line: bool = True) -> str:
    try:
        return file.readline(size) if line else file.read(size)
    except UnicodeDecodeError as error:
        raise DatasetError(f"data file {path} is not UTF-8 text ({error.reason}); convert it to UTF-8") from None


class _ArrayReader:
    """A window over the text of a JSON array that moves forward one token or record at a time."""

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
        """The object that starts at the next character. Reads on, doubling, while it is incomplete."""
        if self.peek() != "{":
            raise self._fault(f"expected a record '{{', found {self.peek()!r}", at=self.position)
        size = _CHUNK
        while True:
            try:
                record, self.position = self.decoder.raw_decode(self.buffer, self.position)
                return record
            except (ValueError, RecursionError) as error:
                too_long = len(self.buffer) - self.position > _MAX_RECORD
                if too_long or not self._grow(size):
                    at = error.pos if isinstance(error, json.JSONDecodeError) else self.position
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise self._fault(reason, at=at) from None
            size *= 2

    def _grow(self, size: int) -> bool:
        """Drop what was read and append the next `size` characters; False at the end of the file."""
        text = _read(self.file, size=size, path=self.path, line=False)
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
            f"{self.path}, line {line}, column {column}: malformed JSON array of records ({reason}); "
            "download the file again or mend this place"
        )
