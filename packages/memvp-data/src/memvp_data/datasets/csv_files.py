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
        while (row := _next_row(rows, lines=lines)) is not None:
            if not row:
                continue
            if not header:
                header = _checked_header(row, path=path)
            elif len(row) != len(header):
                raise DatasetError(
                    f"{path}, line {lines.number}: {len(row)} cells under {len(header)} columns; quote cells that hold "
                    f"{delimiter!r} or a line break"
                )
            else:
                yield lines.number, dict(zip(header, row, strict=True))
        if not header:
            raise DatasetError(f"{path} is empty; its first line must name the columns")


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
    lines.row_length = 0
    limit = csv.field_size_limit(_MAX_ROW)  # one for the whole process, so it is put back at once
    try:
        return next(rows, None)
    except csv.Error as error:
        raise DatasetError(f"{lines.path}, line {lines.number}: not a row of cells ({error}); mend this line") from None
    finally:
        csv.field_size_limit(limit)


def _checked_header(row: list[str], *, path: Path) -> list[str]:
    if len(set(row)) < len(row):
        raise DatasetError(f"{path}: its first line names a column twice; give each column its own name")
    return row
