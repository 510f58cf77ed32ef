"""Columns of numbers in one safetensors file, written in pieces and read through a memory map.

Opening costs the same for a thousand rows and for ten million: only the pages that are looked at are read.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memvp_data.files.atomic import atomic_write

_TYPES = {"I64": np.int64, "F32": np.float32, "I32": np.int32, "BOOL": np.bool_, "U8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
_MAX_HEADER = 1 << 20


class ColumnsWriter:
    """Append pieces to columns; `close` writes the file, whole or not at all. Columns wait in files beside it."""

    def __init__(self, path: Path | str, *, columns: Mapping[str, Any]) -> None:
        """`columns` maps each name to its dtype: int64, float32, int32, bool or uint8."""
        self.path = Path(path)
        # Widest first keeps every column aligned to its own size.
        kinds = {name: np.dtype(kind) for name, kind in columns.items()}
        self._kinds = dict(sorted(kinds.items(), key=lambda item: -item[1].itemsize))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = TemporaryDirectory(prefix=".tmp-columns-", dir=self.path.parent)
        self._files = {name: (Path(self._folder.name) / name).open("wb") for name in self._kinds}
        self._counts = dict.fromkeys(self._kinds, 0)
        self._hashes = {name: hashlib.sha256() for name in self._kinds}

    def append(self, name: str, values: Any) -> None:
        """Append values to a column."""
        piece = np.ascontiguousarray(values, dtype=self._kinds[name])
        self._files[name].write(piece.data)
        self._hashes[name].update(piece.data)
        self._counts[name] += piece.size

    def close(self, metadata: Mapping[str, str]) -> str:
        """Write the file and return the digest of all columns, which the file also holds as metadata "digest"."""
        for file in self._files.values():
            file.close()
        lines = [f"{name} {self._kinds[name]} {digest.hexdigest()}" for name, digest in self._hashes.items()]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        with atomic_write(self.path) as out:
            out.write(self._header({**metadata, "digest": digest}))
            for name in self._kinds:
                with (Path(self._folder.name) / name).open("rb") as column:
                    shutil.copyfileobj(column, out, 1 << 20)
        self._folder.cleanup()
        return digest

    def __enter__(self) -> "ColumnsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        self._folder.cleanup()

    def _header(self, metadata: dict[str, str]) -> bytes:
        header: dict[str, Any] = {"__metadata__": metadata}
        start = 0
        for name, kind in self._kinds.items():
            end = start + self._counts[name] * kind.itemsize
            header[name] = {"dtype": _NAMES[kind], "shape": [self._counts[name]], "data_offsets": [start, end]}
            start = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def open_columns(path: Path | str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """(columns, metadata) of a file of one-dimensional tensors, not read yet. Raises `ValueError` or `OSError`."""
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER:
            raise ValueError(f"its header claims {size} bytes, at most {_MAX_HEADER} are expected")
        header: dict[str, Any] = json.loads(file.read(size))
    metadata = header.pop("__metadata__", {})
    # A plain array on top of the map: slices of np.memmap itself are slow.
    data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))[8 + size :]
    length = max((column["data_offsets"][1] for column in header.values()), default=0)
    if length != len(data):
        raise ValueError(f"it holds {len(data)} bytes of columns, its header says {length}")
    return {name: _column(data, **entry) for name, entry in header.items()}, metadata


def _column(data: NDArray[np.uint8], *, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> NDArray[Any]:
    start, end = data_offsets
    column = data[start:end].view(_TYPES[dtype])
    if [len(column)] != shape:
        raise ValueError(f"a column of {len(column)} values has the shape {shape}")
    return column
