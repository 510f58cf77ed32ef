"""Files of answers, each with a note of its hash and of what it was made from: what does not fit is made again."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memvp_data.files.atomic import atomic_write
from memvp_data.files.hashing import hash_file


def write_answers(path: Path, rows: Iterable[Mapping[str, Any]], *, made_from: str) -> None:
    """One JSON line per row, atomically; then its note."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    _note(path, made_from=made_from)


def join_answers(path: Path, parts: Sequence[Path], *, made_from: str) -> None:
    """The lines of several files as one, atomically; then its note."""
    with atomic_write(path) as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    _note(path, made_from=made_from)


def is_whole(path: Path, *, made_from: str) -> bool:
    """Whether the file is there, undamaged, and made from just this."""
    try:
        note = json.loads(note_path(path).read_bytes())
        return note["made_from"] == made_from and note["sha256"] == hash_file(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def note_path(path: Path) -> Path:
    """Where the note of a file lies."""
    return path.with_name(f"{path.name}.made-from.json")


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _note(path: Path, *, made_from: str) -> None:
    with atomic_write(note_path(path)) as file:
        file.write(json.dumps({"made_from": made_from, "sha256": hash_file(path)}).encode())
