"""SHA-256 of files and folders: the one place that hashes them."""

import hashlib
from pathlib import Path

from memvp_data.files.storage import Folder, split_place


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file as hex."""
    folder, name = split_place(path)
    if folder.local is not None:
        with (folder.local / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hash_stored(folder, name)


def hash_stored(folder: Folder, name: str) -> str:
    """SHA-256 of a file of a folder as hex, in constant memory."""
    found, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with folder.open(name) as file:
        while count := file.readinto(block):  # type: ignore[attr-defined]
            found.update(block[:count])
    return found.hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and hashes of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{path.relative_to(folder)} {hash_file(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
