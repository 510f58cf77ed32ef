"""What kind of file somebody brings: its first bytes say what it is not, its suffix what it is."""

from pathlib import Path
from typing import Literal

from memvp_data.datasets.json_files import DatasetError

Kind = Literal["csv", "tsv", "array", "lines"]
KINDS: dict[str, Kind] = {".csv": "csv", ".tsv": "tsv", ".json": "array", ".jsonl": "lines", ".ndjson": "lines"}
TABLES: tuple[Kind, ...] = ("csv", "tsv")
_MAGIC = {
    b"PK\x03\x04": ("an Excel workbook or another zip archive", "save its sheet as CSV in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save its sheet as CSV in UTF-8"),
    b"PAR1": ("a Parquet file", "write its rows as JSON Lines and its images as files"),
    b"ARROW1": ("an Arrow file", "write its rows as JSON Lines and its images as files"),
    b"\x1f\x8b": ("compressed", "unpack it"),
}


def kind_of(path: Path, *, known: tuple[Kind, ...] = ("csv", "tsv", "array", "lines")) -> Kind:
    """The kind of a file that exists or not. Raises `DatasetError` for one that only looks like a known kind."""
    kind = KINDS.get(path.suffix.lower())
    check_content(path)
    if kind not in known:
        suffixes = ", ".join(suffix for suffix, each in KINDS.items() if each in known)
        raise DatasetError(f"{path.name}: expected a file of the kinds {suffixes}; save it as one of these")
    return kind


def check_content(path: Path) -> None:
    """Refuse a file whose first bytes are those of another kind, whatever it is called."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(8)
    for magic, (what, mend) in _MAGIC.items():
        if start.startswith(magic):
            raise DatasetError(f"{path.name} is {what}; {mend}")
