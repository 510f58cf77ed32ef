"""Digests that decide whether a finished step still counts: of source code, files and settings."""

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memvp_data.files.hashing import hash_file

# Hashing a 13 GB checkpoint on every submission would cost a minute; above this, size and time of change stand in.
LARGEST_HASHED_INPUT = 1 << 30


def digest_json(content: Any) -> str:
    """SHA-256 of canonical JSON: the same settings in another order give the same digest."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def input_digest(path: Path) -> str:
    """Identity of one input file: its hash, or size and time of change above `LARGEST_HASHED_INPUT` bytes."""
    status = path.stat()
    if status.st_size > LARGEST_HASHED_INPUT:
        return f"{status.st_size}:{status.st_mtime_ns}"
    return hash_file(path)


def folder_digest(folder: Path) -> str:
    """Identity of a folder with many files: names, sizes and times of change; reads no file."""
    sha = hashlib.sha256()
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
        status = path.stat()
        sha.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def model_digest(path: str) -> str:
    """Identity of a model named in the settings: the files of a folder, or the name itself for one on the hub."""
    folder = _shipped(path) if path.startswith("toyworld/") else Path(path)
    if not folder.is_dir():
        return path
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    return digest_json({entry.name: input_digest(entry) for entry in files})


def _shipped(path: str) -> Path:
    from memvp_data.toyworld import model_path

    return model_path(path.removeprefix("toyworld/"))  # type: ignore[arg-type]


def code_digest(modules: Iterable[str]) -> str:
    """SHA-256 over the source of the named modules; a package counts with everything below it. Imports nothing."""
    sha = hashlib.sha256()
    for module in sorted(modules):
        for path, label in _sources(module):
            sha.update(f"{label}\0".encode())
            sha.update(path.read_bytes())
            sha.update(b"\0")
    return sha.hexdigest()


def _sources(module: str) -> Iterator[tuple[Path, str]]:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise AssertionError(f"a step names the module {module!r}, which does not exist")
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        yield origin, module
        return
    for path in sorted(origin.parent.rglob("*.py")):
        yield path, f"{module}/{path.relative_to(origin.parent)}"


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of the libraries a step's numbers depend on."""
    return {name: importlib.metadata.version(name) for name in names}
