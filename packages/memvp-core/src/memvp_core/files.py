"""Files of tensors and settings, each replaced whole or not at all. No pickle."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

# safetensors leaves what it opens untyped.
_open: Any = safe_open


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, synced before it takes the name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object, indented, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same tensors give the same bytes."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, metadata=dict(metadata)))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, on the CPU."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        with _open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file: {error}.") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """One JSON object."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        value: Any = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not sound JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, expected a JSON object.")
    return cast(dict[str, Any], value)


def is_elsewhere(tensor: Tensor) -> bool:
    """Whether its values are not in this process: ZeRO-3 has cut it up, or it lies on the meta device."""
    return hasattr(tensor, "ds_id") or tensor.is_meta
