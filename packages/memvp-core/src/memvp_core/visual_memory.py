"""VisualMemory: the projected rows of one or many images, a small tensor that can be kept and carried.

An entry is made once per image and then serves every layer, question and decoding step. It means something only to
the projector that made it; the projector's fingerprint travels along and the model refuses strangers.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from memvp_core.files import read_tensors, write_tensors

_KEY = "rows"
_SAMPLES_PER_TENSOR = 4096


@dataclass(frozen=True, eq=False)
class VisualMemory:
    """Projected image features of I images; g rows of the language model's width each."""

    rows: Float[Tensor, "I g D"]
    """f(z), before the visual scale and the positions."""

    projector: str
    """Fingerprint of the projector that made the rows."""

    def __len__(self) -> int:
        """Number of images."""
        return self.rows.shape[0]

    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> "VisualMemory":
        """Some of the entries, always as a memory (an int gives a memory of one image)."""
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"this memory holds {len(self)} images, there is no entry {which}.")
            which = [which]
        return replace(self, rows=self.rows[which])

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self.rows.nbytes

    def to(self, target: torch.device | torch.dtype | str) -> "VisualMemory":
        """The same memory on another device or in another dtype."""
        return replace(self, rows=self.rows.to(target))

    @classmethod
    def cat(cls, memories: Iterable["VisualMemory"]) -> "VisualMemory":
        """The entries of several memories, one after the other."""
        memories = list(memories)
        _check_alike(memories)
        return cls(torch.cat([memory.rows for memory in memories]), memories[0].projector)

    @classmethod
    def join(cls, memories: Iterable["VisualMemory"]) -> "VisualMemory":
        """Several images as one: entry i holds the rows of entry i of every memory, side by side."""
        memories = list(memories)
        _check_alike(memories, same_rows=False)
        return cls(torch.cat([memory.rows for memory in memories], dim=1), memories[0].projector)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; an existing one is replaced whole or not at all."""
        write_tensors(path, {_KEY: self.rows}, metadata={"format": "memvp.visual_memory", "projector": self.projector})

    @classmethod
    def load(cls, path: str | Path) -> "VisualMemory":
        """Read what `save` wrote."""
        tensors, metadata = read_tensors(path)
        if _KEY not in tensors or "projector" not in metadata:
            raise ValueError(f"{path} is not a visual memory: expected what VisualMemory.save wrote.")
        return cls(tensors[_KEY], metadata["projector"])


def _check_alike(memories: Sequence[VisualMemory], *, same_rows: bool = True) -> None:
    if not memories:
        raise ValueError("expected at least one memory, got none.")
    if len({memory.projector for memory in memories}) > 1:
        raise ValueError("these memories come from different projectors: encode all images with the same adapter.")
    axis = 1 if same_rows else 0
    sizes = {memory.rows.shape[axis] for memory in memories}
    if len(sizes) > 1:
        what = "rows per image" if same_rows else "images"
        raise ValueError(f"these memories differ in their number of {what}: {sorted(sizes)}; they must agree.")


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """A short hash of named weights: of evenly spaced samples, so it costs little, in bfloat16, so a cast keeps it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters.items()):
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // _SAMPLES_PER_TENSOR)
        samples = flat[::step].to(device="cpu", dtype=torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(samples.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
