"""Entries: the keys and values that a batch reads, one entry per image, in the order of the batch's arrangement.

Nothing is computed here but what every form shares: which rows an entry has, and which of its slots may be active.

Dimensions: E entries, I images, P rows of an image, R = P or S rows stored per entry, S position rows, N slots (S, or
P + S where image rows and positions stand side by side), C width of a stored row, L layers, D model width.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from memvp_core.config import InsertIn, NoImage, PaddedRows, PositionMode
from memvp_core.memory.arrange import NO_IMAGE, Arrangement, Group

Scale = float | Tensor


class ReadParts(NamedTuple):
    """Parts: what a form needs of the prompt; every one is a new tensor, never a parameter."""

    rows: Float[Tensor, "I P C"] | None
    """Image rows: lambda f(z), or with a basis the codes of f(z) in it. None: there are no image rows."""

    basis: Float[Tensor, "D C"] | None
    """f(z) = basis code: the last layer of the projector; None where rows have the model's width."""

    key_positions: Float[Tensor, "*L S D"]
    """pk, for all layers or one each."""

    value_positions: Float[Tensor, "*L S D"]
    """pv."""

    row_scale: Scale = 1.0
    """lambda where there is a basis, else 1: `rows` have it already."""

    retrieval_scale: Scale = 1.0
    """s; (L, 1) where every layer has its own."""


@dataclass(frozen=True)
class Entries:
    """Keys and values of the images of a batch. What is missing is None and contributes nothing."""

    key_rows: Float[Tensor, "E R C"] | None
    """Image rows of the keys; in `direct` form the whole keys."""

    value_rows: Float[Tensor, "E R C"] | None
    """Image rows of the values; in `direct` form the whole values."""

    basis: Float[Tensor, "D C"] | None
    """As in ReadParts."""

    key_positions: Float[Tensor, "*L S D"] | None
    """Position rows of the keys, for all layers or one each."""

    value_positions: Float[Tensor, "*L S D"] | None
    """Position rows of the values."""

    row_scale: Scale
    """On what the image rows contribute to keys and values."""

    retrieval_scale: Scale
    """On all that is retrieved; (L, 1) where every layer has its own."""

    live: Bool[Tensor, "E N"] | None
    """Which slots an entry may activate; None is all."""

    position_mode: PositionMode = "add"
    """Whether row i and position i share slot i."""

    @property
    def dtype(self) -> torch.dtype:
        """Of all parts."""
        parts = (self.key_rows, self.value_rows, self.key_positions, self.value_positions)
        return next(part.dtype for part in parts if part is not None)

    @property
    def device(self) -> torch.device:
        """Of all parts."""
        parts = (self.key_rows, self.value_rows, self.key_positions, self.value_positions)
        return next(part.device for part in parts if part is not None)

    def to(self, device: torch.device) -> "Entries":
        """The same on a device; gradients come back."""
        tensors = tuple(part.to(device) if isinstance(part, Tensor) else part for part in self.tensors)
        moved = self.with_tensors(tensors)
        return moved if self.live is None else replace(moved, live=self.live.to(device))

    @property
    def tensors(self) -> tuple[Tensor | Scale | None, ...]:
        """The parts that may carry gradients, for `with_tensors`."""
        rows, positions = (self.key_rows, self.value_rows), (self.key_positions, self.value_positions)
        return (*rows, self.basis, *positions, self.row_scale, self.retrieval_scale)

    def with_tensors(self, tensors: tuple[Tensor | Scale | None, ...]) -> "Entries":
        """The same entries over other tensors (of a checkpoint's recomputation)."""
        return Entries(*tensors, live=self.live, position_mode=self.position_mode)  # pyright: ignore[reportArgumentType]

    def of_group(self, group: Group) -> "Entries":
        """The entries of one group; views, no copies."""
        part = group.entry_slice
        return replace(
            self,
            key_rows=None if self.key_rows is None else self.key_rows[part],
            value_rows=None if self.value_rows is None else self.value_rows[part],
            live=None if self.live is None else self.live[part],
        )

    def of_layer(self, layer: int) -> "Entries":
        """The entries with the positions and the scale of one layer (counted over the layers that have the memory)."""
        own: dict[str, Tensor] = {}
        if isinstance(self.retrieval_scale, Tensor) and self.retrieval_scale.ndim == 2:
            own["retrieval_scale"] = self.retrieval_scale[layer]
        if self.key_positions is not None and self.value_positions is not None and self.key_positions.ndim == 3:
            own |= {"key_positions": self.key_positions[layer], "value_positions": self.value_positions[layer]}
        return replace(self, **own) if own else self

    def folded(self) -> "Entries":
        """The `direct` form: positions joined to the rows of every entry, for one layer; rows of the model's width."""
        assert self.basis is None
        key_rows, key_positions = self._fold(self.key_rows, self.key_positions)
        value_rows, value_positions = self._fold(self.value_rows, self.value_positions)
        parts = {"key_rows": key_rows, "value_rows": value_rows}
        return replace(self, **parts, key_positions=key_positions, value_positions=value_positions)

    def _fold(self, rows: Tensor | None, positions: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if rows is None or positions is None:
            return rows, positions
        if self.position_mode == "concat":
            return torch.cat([rows, positions.expand(rows.shape[0], -1, -1)], dim=1), None
        num_rows = rows.shape[1]
        joined = rows + positions[..., :num_rows, :]
        if num_rows == positions.shape[-2]:
            return joined, None
        # Cheaper than adding padded rows: slots without a row are copied, not added to zeros.
        return torch.cat([joined, positions[..., num_rows:, :].expand(rows.shape[0], -1, -1)], dim=1), None


def widened(tensor: Tensor, size: int) -> Tensor:
    """Zeros appended along the last dimension up to a size."""
    missing = size - tensor.shape[-1]
    return functional.pad(tensor, (0, missing)) if missing else tensor


def scaled(tensor: Tensor, scale: Scale) -> Tensor:
    """The product; a scale of 1 costs nothing."""
    return tensor if isinstance(scale, float) and scale == 1.0 else tensor * scale


def entries_for(
    parts: ReadParts,
    *,
    arrangement: Arrangement,
    insert_in: InsertIn = "both",
    position_mode: PositionMode = "add",
    padded_rows: PaddedRows = "live",
    no_image: NoImage = "positions",
    row_images: Int[Tensor, "I P"] | None = None,
    blocked: Bool[Tensor, "I P"] | None = None,
) -> Entries:
    """Gather what an arrangement reads, once per image.

    `row_images` is -1 for rows that only pad an entry; `blocked` slots are never active.
    """
    rows = None if parts.rows is None or insert_in == "none" else _gather(parts.rows, arrangement)
    live = None
    if padded_rows == "masked" or blocked is not None or no_image == "base":
        live = _live_slots(
            parts,
            arrangement=arrangement,
            position_mode=position_mode,
            padded_rows=padded_rows,
            no_image=no_image,
            row_images=row_images,
            blocked=blocked,
        )
    return Entries(
        key_rows=None if insert_in == "values" else rows,
        value_rows=None if insert_in == "keys" else rows,
        basis=parts.basis,
        key_positions=parts.key_positions,
        value_positions=parts.value_positions,
        row_scale=parts.row_scale,
        retrieval_scale=parts.retrieval_scale,
        live=live,
        position_mode=position_mode,
    )


def _gather(rows_IPC: Tensor, arrangement: Arrangement) -> Tensor:
    """Rows in the order of the arrangement; the image-free entry is a row block of zeros."""
    num_images = rows_IPC.shape[0]
    if arrangement.entries == tuple(range(num_images)):
        return rows_IPC
    if NO_IMAGE in arrangement.entries:
        rows_IPC = torch.cat([rows_IPC, rows_IPC.new_zeros(1, *rows_IPC.shape[1:])])
    return rows_IPC.index_select(0, _numbers(arrangement, num_images=num_images, device=rows_IPC.device))


def _numbers(arrangement: Arrangement, *, num_images: int, device: torch.device) -> Tensor:
    """Where each entry lies among the images; the image-free one comes after them all."""
    return torch.tensor([num_images if one == NO_IMAGE else one for one in arrangement.entries], device=device)


def _live_slots(
    parts: ReadParts,
    *,
    arrangement: Arrangement,
    position_mode: PositionMode,
    padded_rows: PaddedRows,
    no_image: NoImage,
    row_images: Tensor | None,
    blocked: Tensor | None,
) -> Tensor | None:
    # Without rows (insert_in "none") images still are entries, which read the positions.
    known = max((one for one in arrangement.entries if one != NO_IMAGE), default=-1) + 1
    num_images, num_rows = (known, 0) if parts.rows is None else parts.rows.shape[:2]
    num_positions, device = parts.key_positions.shape[-2], parts.key_positions.device
    num_slots = num_positions + (num_rows if position_mode == "concat" else 0)
    # One row per image, and the image-free entry last.
    live = torch.ones(num_images + 1, num_slots, dtype=torch.bool, device=device)
    if padded_rows == "masked":
        live[:-1, num_rows:] = False
        if row_images is not None:
            live[:-1, :num_rows] = row_images.to(device) >= 0
    if blocked is not None:
        live[:-1, :num_rows] &= ~blocked.to(device)
    if no_image == "base":
        live[-1] = False
    live = live.index_select(0, _numbers(arrangement, num_images=num_images, device=device))
    return None if bool(live.all()) else live
