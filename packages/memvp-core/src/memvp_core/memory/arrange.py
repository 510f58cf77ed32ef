"""Which sequences or tokens of a batch read which image: from an image index to groups that share matrix products.

The keys and values of an image are stored once. To let many questions read them without copies, the batch is sorted
so that images read by equally many units stand together; each such group is then one batched product. A unit is
a sequence of the batch, or a single token when the index changes inside a sequence.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

NO_IMAGE = -1


@dataclass(frozen=True)
class Group:
    """Neighbouring entries that are all read by the same number of units."""

    first_entry: int
    """Number of the first entry in `Arrangement.entries`."""

    num_entries: int
    """Entries in this group."""

    units_per_entry: int
    """Units that read each of them."""

    first_unit: int
    """Where the group's units begin in the sorted order."""

    @property
    def entry_slice(self) -> slice:
        """The group's own among the entries."""
        return slice(self.first_entry, self.first_entry + self.num_entries)

    @property
    def unit_slice(self) -> slice:
        """The group's part of the sorted units."""
        return slice(self.first_unit, self.first_unit + self.num_entries * self.units_per_entry)


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The sorted reading order of one batch."""

    index: Int[Tensor, "B"] | Int[Tensor, "B T"]
    """Image of each unit, as the batch has them; on the CPU."""

    entries: tuple[int, ...]
    """Images in the order of the groups; -1 is the entry of the image-free units."""

    groups: tuple[Group, ...]
    """They cover all entries and all units, in order."""

    order: Int[Tensor, "U"] | None
    """Sorted units as numbers of the batch; None when the batch is sorted already."""

    inverse: Int[Tensor, "U"] | None
    """Where each unit of the batch went; None when the batch is sorted already."""

    _repeated: dict[int, "Arrangement"] = field(default_factory=dict[int, "Arrangement"], init=False)

    @property
    def batch_size(self) -> int:
        """Sequences."""
        return self.index.shape[0]

    @property
    def num_units(self) -> int:
        """Sequences, or tokens where the image changes inside a sequence."""
        return self.index.numel()

    @property
    def num_tokens(self) -> int | None:
        """Tokens of a sequence where units are tokens; None where any length will do."""
        return self.index.shape[1] if self.index.ndim == 2 else None

    def to(self, device: torch.device) -> "Arrangement":
        """The same order for states on a device."""
        if self.order is None or self.inverse is None:
            return self
        return replace(self, order=self.order.to(device), inverse=self.inverse.to(device))

    def repeat(self, times: int) -> "Arrangement":
        """The same with every sequence `times` times in a row, as beam search has it; the entries keep their order.

        Where units are sequences nothing changes: the repeated ones stand together and count as a longer one.
        """
        if times == 1 or self.index.ndim == 1:
            return self
        if times not in self._repeated:
            device = torch.device("cpu") if self.order is None else self.order.device
            self._repeated[times] = arrange(self.index.repeat_interleave(times, dim=0), device=device)
        return self._repeated[times]


def arrange(image_index: Int[Tensor, "B"] | Int[Tensor, "B T"], *, device: torch.device) -> Arrangement:
    """Sort the units of a batch by image; (B,) or a (B, T) that is constant along T sorts sequences, else tokens.

    Reads the index on the CPU: one held on a GPU costs a wait for the GPU.
    """
    index = image_index.cpu()
    if index.ndim == 2 and bool((index == index[:, :1]).all()):
        index = index[:, 0]
    units: Any = index.flatten()
    units_of = _units_of(units.tolist())
    # Python's sort is stable: entries of one size stay in the order in which the batch met them.
    entries = tuple(sorted(units_of, key=lambda entry: len(units_of[entry])))
    order = torch.tensor([unit for entry in entries for unit in units_of[entry]])
    is_sorted = bool((order == torch.arange(len(order))).all())
    return Arrangement(
        index=index,
        entries=entries,
        groups=_groups([len(units_of[entry]) for entry in entries]),
        order=None if is_sorted else order.to(device),
        inverse=None if is_sorted else order.argsort().to(device),
    )


def _units_of(index: Sequence[int]) -> dict[int, list[int]]:
    units_of: dict[int, list[int]] = defaultdict(list)
    for unit, entry in enumerate(index):
        units_of[entry].append(unit)
    return units_of


def _groups(sizes: Sequence[int]) -> tuple[Group, ...]:
    groups: list[Group] = []
    first_entry = first_unit = 0
    for size in sorted(set(sizes)):
        num_entries = sizes.count(size)
        groups.append(Group(first_entry, num_entries, size, first_unit))
        first_entry += num_entries
        first_unit += num_entries * size
    return tuple(groups)
