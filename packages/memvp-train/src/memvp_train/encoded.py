"""The tokens of a whole samples table in one safetensors file: made once before training, read by every worker.

So no worker needs a tokenizer or repeats the tokenising after a restart, and memory is mapped, not copied.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from memvp_data.atomic import atomic_write
from memvp_data.samples import read_samples
from memvp_data.text import IGNORED, Encoded, encode_sample

SCHEMA_VERSION = "1"


class EncodedError(ValueError):
    """An encoded table is missing, damaged, or was made from something else."""


@dataclass(frozen=True)
class EncodedCounts:
    """What became of the samples."""

    num_samples: int
    """Samples in the table."""
    num_dropped: int
    """Samples left out because `max_length` cut off every label."""


def write_encoded(
    samples: Path,
    *,
    out: Path,
    tokenizer: Any,
    template: str,
    max_length: int,
    key: str,
    progress: Callable[[int], None] = lambda done: None,
) -> EncodedCounts:
    """Tokenise a samples table into `out` (atomic). `key` names what went in; `EncodedTable` checks it.

    `progress` gets the number of samples read so far.
    """
    table = _Columns()
    for done, sample in enumerate(read_samples(samples), start=1):
        table.add(encode_sample(sample, tokenizer=tokenizer, template=template, max_length=max_length))
        progress(done)
    if not table.offsets[1:]:
        raise EncodedError(
            f"{samples} leaves no sample to train on: {table.num_dropped} have no label in {max_length} tokens"
        )
    counts = EncodedCounts(len(table.offsets) - 1, table.num_dropped)
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "num_dropped": str(counts.num_dropped),
        "pad_token_id": str(_padding(tokenizer)),
    }
    with atomic_write(out) as file:
        file.write(save(table.tensors(), metadata=metadata))
    return counts


def _padding(tokenizer: Any) -> int:
    """Masked and unlabelled, so any token does; the tokenizer's own if it has one."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


class _Columns:
    """Growing columns of the table."""

    def __init__(self) -> None:
        self.input_ids: list[np.ndarray] = []
        self.labelled: list[np.ndarray] = []
        self.offsets: list[int] = [0]
        self.names: list[tuple[str, str | None]] = []
        self.num_dropped = 0

    def add(self, encoded: Encoded | None) -> None:
        if encoded is None:
            self.num_dropped += 1
            return
        self.input_ids.append(np.asarray(encoded.input_ids, dtype=np.int32))
        self.labelled.append(np.asarray(encoded.labels) != IGNORED)
        self.offsets.append(self.offsets[-1] + len(encoded.input_ids))
        self.names.append((encoded.id, encoded.image_id))

    def tensors(self) -> dict[str, Tensor]:
        names = json.dumps(self.names).encode()
        return {
            "input_ids": torch.from_numpy(np.concatenate(self.input_ids)),
            "labelled": torch.from_numpy(np.concatenate(self.labelled)),
            "offsets": torch.tensor(self.offsets, dtype=torch.int64),
            "names": torch.frombuffer(bytearray(names), dtype=torch.uint8),
        }


class EncodedTable(Sequence[Encoded]):
    """The samples of `write_encoded`, by position; `with_images=False` hands them out as text only.

    Raises `EncodedError` if the file is not the one that `key` names.
    """

    def __init__(self, path: Path, *, key: str, with_images: bool = True) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in ("input_ids", "labelled", "offsets", "names")}
        except (OSError, SafetensorError) as error:
            raise EncodedError(
                f"encoded samples {path} are missing or damaged ({error}); they are made again"
            ) from None
        if metadata.get("schema_version") != SCHEMA_VERSION or metadata.get("key") != key:
            raise EncodedError(f"encoded samples {path} were made from other samples or settings; they are made again")
        self.counts = EncodedCounts(len(tensors["offsets"]) - 1, int(metadata["num_dropped"]))
        self.pad_token_id = int(metadata["pad_token_id"])
        self._input_ids, self._labelled = tensors["input_ids"].numpy(), tensors["labelled"].numpy()
        self._offsets = tensors["offsets"].tolist()
        self._names: list[tuple[str, str | None]] = json.loads(tensors["names"].numpy().tobytes())
        if not with_images:
            self._names = [(name, None) for name, _ in self._names]

    def __len__(self) -> int:
        return self.counts.num_samples

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | list[Encoded]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        start, stop = self._offsets[place], self._offsets[place + 1]
        ids = self._input_ids[start:stop]
        labels = np.where(self._labelled[start:stop], ids, IGNORED)
        name, image_id = self._names[place]
        return Encoded(name, tuple(ids.tolist()), tuple(labels.tolist()), image_id)

    def __iter__(self) -> Iterator[Encoded]:
        return (self[place] for place in range(len(self)))

    @property
    def image_ids(self) -> set[str]:
        """Images that any sample needs."""
        return {image_id for _, image_id in self._names if image_id is not None}
