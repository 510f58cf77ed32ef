"""VisualMemory: one or many images, projected once; a small tensor that can be kept and carried.

An entry serves every layer, question and decoding step. It holds the codes before the projector's last layer where
these are narrower than the model, else the projected rows: for LLaMA-7B with the paper's projector 64 KiB an image.
It means something only to the projector that made it, so the projector's fingerprint travels along.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memvp_core.files import read_tensors, write_tensors

_FORMAT = "memvp.visual_memory.2"
_SAMPLES_PER_TENSOR = 4096
_PADDING = -1


@dataclass(frozen=True, eq=False)
class VisualMemory:
    """I entries of P rows each. An entry is one image, or several side by side (`join`)."""

    codes: Float[Tensor, "I P W"]
    """What `VisualPrompt.encode` made."""

    projector: str
    """Which projector made them (`projector_name`)."""

    row_images: Int[Tensor, "I P"] | None = None
    """Which image of its entry a row shows, -1 where it only pads a shorter entry. None: all rows show one image."""

    row_weights: Float[Tensor, "I P"] | None = None
    """Factors on what is visual in a row (`locate.scale_rows`)."""

    blocked: Bool[Tensor, "I P"] | None = None
    """Rows that no layer may activate (`locate.mask_rows`)."""

    def __len__(self) -> int:
        """Number of entries."""
        return self.codes.shape[0]

    @property
    def num_rows(self) -> int:
        """P, padding included."""
        return self.codes.shape[1]

    def __getitem__(self, which: SupportsIndex | slice | Sequence[int] | Tensor) -> "VisualMemory":
        """Some of the entries, always as a memory (an int gives a memory of one entry)."""
        if isinstance(which, Integral):  # numpy's too
            number = int(which)
            if not -len(self) <= number < len(self):
                raise IndexError(f"this memory holds {len(self)} images, there is no entry {number}.")
            which = [number]
        return replace(self, **{name: tensor[which] for name, tensor in self._tensors().items()})

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def to(self, target: torch.device | torch.dtype | str) -> "VisualMemory":
        """The same memory on another device or in another dtype."""
        if isinstance(target, torch.dtype):
            return replace(self, codes=self.codes.to(target))
        return replace(self, **{name: tensor.to(target) for name, tensor in self._tensors().items()})

    @classmethod
    def cat(cls, memories: Iterable["VisualMemory"]) -> "VisualMemory":
        """The entries of several memories, one after the other; shorter entries are padded."""
        return _stacked([entry for memory in _checked(memories) for entry in _entries(memory)])

    @classmethod
    def join(cls, memories: Iterable["VisualMemory"]) -> "VisualMemory":
        """Several images as one: entry i holds the rows of entry i of every memory, side by side."""
        memories = _checked(memories)
        if len({len(memory) for memory in memories}) > 1:
            sizes = sorted({len(memory) for memory in memories})
            raise ValueError(f"these memories differ in their number of images: {sizes}; they must agree.")
        return _stacked([_side_by_side(entries) for entries in zip(*map(_entries, memories), strict=True)])

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; an existing one is replaced whole or not at all."""
        write_tensors(path, self._tensors(), metadata={"format": _FORMAT, "projector": self.projector})

    @classmethod
    def load(cls, path: str | Path) -> "VisualMemory":
        """Read what `save` wrote."""
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT or "codes" not in tensors:
            raise ValueError(f"{path} is not a visual memory: expected what VisualMemory.save wrote.")
        return cls(projector=metadata["projector"], **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in ("codes", "row_images", "row_weights", "blocked")}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def _entries(memory: VisualMemory) -> list[VisualMemory]:
    """Each entry by itself, without padding, every tensor present."""
    return [_plain(memory[number]) for number in range(len(memory))]


def _plain(entry: VisualMemory) -> VisualMemory:
    shape, device = entry.codes.shape[:2], entry.codes.device
    images = torch.zeros(shape, dtype=torch.int32, device=device) if entry.row_images is None else entry.row_images
    images = images.to(torch.int32)  # files of before hold 8 bits, in which image 128 would be padding
    weights = torch.ones(shape, device=device) if entry.row_weights is None else entry.row_weights
    blocked = torch.zeros(shape, dtype=torch.bool, device=device) if entry.blocked is None else entry.blocked
    kept = images[0] != _PADDING
    return VisualMemory(entry.codes[:, kept], entry.projector, images[:, kept], weights[:, kept], blocked[:, kept])


def _side_by_side(entries: Sequence[VisualMemory]) -> VisualMemory:
    numbered: list[Tensor] = []
    first = 0
    for entry in entries:
        assert entry.row_images is not None
        numbered.append(entry.row_images + first)
        first += int(entry.row_images.max()) + 1 if entry.num_rows else 0
    tensors = [entry._tensors() | {"row_images": images} for entry, images in zip(entries, numbered, strict=True)]  # pyright: ignore[reportPrivateUsage]
    joined = {name: torch.cat([one[name] for one in tensors], dim=1) for name in tensors[0]}
    return VisualMemory(projector=entries[0].projector, **joined)


def _stacked(entries: Sequence[VisualMemory]) -> VisualMemory:
    """Entries under each other, padded to the longest; tensors that say nothing are left out."""
    longest = max(entry.num_rows for entry in entries)
    tensors = [_padded(entry, longest) for entry in entries]
    stacked = {name: torch.cat([one[name] for one in tensors]) for name in tensors[0]}
    says = {
        "codes": True,
        "row_images": bool(stacked["row_images"].any()),
        "row_weights": bool((stacked["row_weights"] != 1).any()),
        "blocked": bool(stacked["blocked"].any()),
    }
    return VisualMemory(projector=entries[0].projector, **{name: stacked[name] for name in stacked if says[name]})


def _padded(entry: VisualMemory, size: int) -> dict[str, Tensor]:
    missing = size - entry.num_rows
    fill = {"codes": 0, "row_images": _PADDING, "row_weights": 1, "blocked": False}
    return {
        name: torch.cat([tensor, tensor.new_full((1, missing, *tensor.shape[2:]), fill[name])], dim=1)
        for name, tensor in entry._tensors().items()  # pyright: ignore[reportPrivateUsage]
    }


def _checked(memories: Iterable[VisualMemory]) -> list[VisualMemory]:
    memories = list(memories)
    if not memories:
        raise ValueError("expected at least one memory, got none.")
    if not all(is_same_projector(memory.projector, memories[0].projector) for memory in memories):
        raise ValueError("these memories come from different projectors: encode all images with the same adapter.")
    return memories


def fingerprint(parameters: Mapping[str, Tensor], *, dtype: torch.dtype = torch.bfloat16) -> str:
    """A short hash of named weights: of evenly spaced samples, so it costs little, and unchanged by a cast to `dtype`.

    `dtype` has 16 bits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(parameters.items()):
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // _SAMPLES_PER_TENSOR)
        samples = flat[::step].to(device="cpu", dtype=dtype).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(samples.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def projector_name(parameters: Mapping[str, Tensor]) -> str:
    """Two fingerprints: the weights keep one of them through a cast to bfloat16, the other through one to float16."""
    return ".".join(fingerprint(parameters, dtype=dtype) for dtype in (torch.bfloat16, torch.float16))


def is_same_projector(one: str, other: str) -> bool:
    """Whether two names mean the same weights, cast or not; files of before have the first fingerprint alone."""
    return any(left == right for left, right in zip(one.split("."), other.split("."), strict=False))
