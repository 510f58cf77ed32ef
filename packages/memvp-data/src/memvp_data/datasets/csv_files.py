"""Read CSV and TSV files row by row, in bounded memory, with the line of every fault."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from memvp_data.datasets.json_files import DatasetError, open_text, read_part

_MAX_ROW = 1 << 24  # characters; MMBench keeps whole images in its rows


def read_csv(path: Path, *, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, {column: cell}) of every row but the header; blank lines are skipped."""
    with open_text(path) as file:
        lines = _Lines(file, path=path)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] = []
        is_empty = True
        while (row := _next_row(rows, lines=lines)) is not None:
            if not row:
                continue
            if not header:
                header = _checked_header(row, path=path, delimiter=delimiter)
            elif len(row) != len(header):
                raise DatasetError(
                    f"{path}, line {lines.number}: {len(row)} cells under {len(header)} columns; quote cells that hold "
                    f"{delimiter!r} or a line break"
                )
            else:
                is_empty = False
                yield lines.number, dict(zip(header, row, strict=True))
        if is_empty:
            what = "has no rows below its first line" if header else "is empty; its first line must name the columns"
            raise DatasetError(f"{path} {what}")


class _Lines:
    """The lines of a file, as long as one row does not grow beyond all measure."""

    def __init__(self, file: TextIO, *, path: Path) -> None:
        self.file, self.path = file, path
        self.number, self.row_length = 0, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = read_part(self.file, size=_MAX_ROW, path=self.path)
        self.number += 1
        self.row_length += len(line)
        if self.row_length >= _MAX_ROW:
            raise DatasetError(
                f"{self.path}, line {self.number}: a row of over {_MAX_ROW:,} characters; close its quotes or split it"
            )
        if not line:
            raise StopIteration
        return line


def _next_row(rows: Iterator[list[str]], *, lines: _Lines) -> list[str] | None:
    lines.row_length, first = 0, lines.number + 1
    limit = csv.field_size_limit(_MAX_ROW)  # one for the whole process, so it is put back at once
    try:
        return next(rows, None)
    except csv.Error as error:
        # A quote that nobody closes takes in all that follows.
        start = f" in the row that begins in line {first}" if first < lines.number else ""
        place = f"{lines.path}, line {lines.number}"
        raise DatasetError(f"{place}: not a row of cells ({error}){start}; mend this line") from None
    finally:
        csv.field_size_limit(limit)


def _checked_header(row: list[str], *, path: Path, delimiter: str) -> list[str]:
    other = next((mark for mark in ";\t," if mark != delimiter and len(row) == 1 and mark in row[0]), None)
    if other is not None:
        raise DatasetError(
            f"{path}: its first line has no {delimiter!r} but {other!r}; save it with {delimiter!r} between columns"
            + (", or call it .tsv" if other == "\t" else "")
        )
    if len(set(row)) < len(row):
        raise DatasetError(f"{path}: its first line names a column twice; give each column its own name")
    return row
