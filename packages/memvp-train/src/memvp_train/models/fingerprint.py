"""What a folder of a model or an adapter holds, as one hash: by it finished work is known to be still right."""

import hashlib
from pathlib import Path

from memvp_data.files.hashing import hash_file

_HASHED_BYTES = 64 << 20


def model_fingerprint(path: str) -> str:
    """The name on the hub, a hash of the file, or one of the files of a folder: those above 64 MiB by their lengths."""
    if Path(path).is_file():
        return hash_file(Path(path))
    if not Path(path).is_dir():
        return path
    files = sorted(file for pattern in ("*.json", "*.safetensors") for file in Path(path).glob(pattern))
    sizes = {file: file.stat().st_size for file in files}
    lines = [f"{file.name} {size if size > _HASHED_BYTES else hash_file(file)}" for file, size in sizes.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
