"""Retrieval from visual memory: the exact forms of one equation, as pure functions.

    retrieved(x) = s * sum_i phi(<x, lambda f(z_i) + pk_i>) (lambda f(z_i) + pv_i)

`split` keeps image rows and positions apart and adds their scores; `direct` adds the rows first, once per forward
when all layers share the positions. Both run the same `read`: they differ only in what `Entries` holds. Slow loops
that say the same are in reference.py.

Dimensions: B sequences, T tokens, U units (arrange.py), E entries, M queries of an entry, I images, P rows of an
image, S slots, R = P or S rows stored per entry, L layers, D model width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from memvp_core.arrange import NO_IMAGE, Arrangement, Group, arrange
from memvp_core.config import InsertIn, Method, NoImage, PaddedRows
from memvp_core.precision import dot
from memvp_core.reference import read_loops

Activation = Callable[[Tensor], Tensor]
Form = Literal["direct", "split", "reference"]


@dataclass(frozen=True)
class Entries:
    """Keys and values of the images of a batch. A missing part is None and contributes nothing."""

    key_rows: Float[Tensor, "E R D"] | None
    """Image part of the keys; in `direct` form the whole keys."""

    value_rows: Float[Tensor, "E R D"] | None
    """Image part of the values times s; in `direct` form the whole values."""

    key_positions: Float[Tensor, "*L S D"] | None
    """Position part of the keys, for all layers or one each."""

    value_positions: Float[Tensor, "*L S D"] | None
    """Position part of the values times s."""

    live: Bool[Tensor, "E S"] | None
    """Which slots an entry may activate; None is all."""

    @property
    def dtype(self) -> torch.dtype:
        """Of all parts."""
        return next(part.dtype for part in self.tensors if part is not None)

    @property
    def num_entries(self) -> int:
        """E; an insert into keys or values alone still has one of the two."""
        return next(rows.shape[0] for rows in (self.key_rows, self.value_rows) if rows is not None)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parts that carry gradients, for `with_tensors`."""
        return (self.key_rows, self.value_rows, self.key_positions, self.value_positions)

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> "Entries":
        """The same entries over other tensors (of a checkpoint's recomputation)."""
        return Entries(*tensors, live=self.live)

    def of_group(self, group: Group) -> "Entries":
        """The entries of one group; views, no copies."""
        if group.num_entries == self.num_entries:
            return self
        part = group.entry_slice
        return replace(
            self,
            key_rows=None if self.key_rows is None else self.key_rows[part],
            value_rows=None if self.value_rows is None else self.value_rows[part],
            live=None if self.live is None else self.live[part],
        )

    def of_layer(self, layer: int) -> "Entries":
        """The entries with the positions of one layer (counted over the layers that have the memory)."""
        if self.key_positions is None or self.value_positions is None or self.key_positions.ndim == 2:
            return self
        return replace(self, key_positions=self.key_positions[layer], value_positions=self.value_positions[layer])

    def folded(self) -> "Entries":
        """The `direct` form: positions added to the rows of every entry. Needs the positions of one layer."""
        if not (_both(self.key_rows, self.key_positions) or _both(self.value_rows, self.value_positions)):
            return self
        key_rows, key_positions = _fold(self.key_rows, self.key_positions)
        value_rows, value_positions = _fold(self.value_rows, self.value_positions)
        return Entries(key_rows, value_rows, key_positions, value_positions, self.live)


def _both(rows: Tensor | None, positions: Tensor | None) -> bool:
    return rows is not None and positions is not None


def _fold(rows: Tensor | None, positions: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if rows is None or positions is None:
        return rows, positions
    num_padded = positions.shape[-2] - rows.shape[-2]
    padded = functional.pad(rows, (0, 0, 0, num_padded)) if num_padded else rows
    return padded + positions, None


def entries_for(
    arrangement: Arrangement,
    *,
    key_rows: Float[Tensor, "I P D"],
    value_rows: Float[Tensor, "I P D"],
    key_positions: Float[Tensor, "*L S D"],
    value_positions: Float[Tensor, "*L S D"],
    insert_in: InsertIn = "both",
    padded_rows: PaddedRows = "live",
    no_image: NoImage = "positions",
) -> Entries:
    """Gather what an arrangement reads, once per image; all scales are in the tensors already."""
    num_rows, num_slots = key_rows.shape[1], key_positions.shape[-2]
    return Entries(
        key_rows=None if insert_in == "values" else _gather(key_rows, arrangement),
        value_rows=None if insert_in == "keys" else _gather(value_rows, arrangement),
        key_positions=key_positions,
        value_positions=value_positions,
        live=_live_slots(
            arrangement,
            num_rows=num_slots if padded_rows == "live" else num_rows,
            num_slots=num_slots,
            no_image=no_image,
            device=key_rows.device,
        ),
    )


def _gather(rows_IPD: Tensor, arrangement: Arrangement) -> Tensor:
    """Rows in the order of the arrangement; the image-free entry is a row block of zeros."""
    num_images = rows_IPD.shape[0]
    if arrangement.entries == tuple(range(num_images)):
        return rows_IPD
    if NO_IMAGE in arrangement.entries:
        rows_IPD = torch.cat([rows_IPD, rows_IPD.new_zeros(1, *rows_IPD.shape[1:])])
    numbers = [num_images if entry == NO_IMAGE else entry for entry in arrangement.entries]
    return rows_IPD.index_select(0, torch.tensor(numbers, device=rows_IPD.device))


def _live_slots(
    arrangement: Arrangement, *, num_rows: int, num_slots: int, no_image: NoImage, device: torch.device
) -> Tensor | None:
    gated = no_image == "base" and NO_IMAGE in arrangement.entries
    if num_rows == num_slots and not gated:
        return None
    num_free = 0 if no_image == "base" else num_slots
    limits = [num_free if entry == NO_IMAGE else num_rows for entry in arrangement.entries]
    return torch.arange(num_slots, device=device) < torch.tensor(limits, device=device)[:, None]


def read(
    x: Float[Tensor, "B T D"],
    *,
    entries: Entries,
    arrangement: Arrangement,
    activation: Activation,
    dropout: float = 0.0,
    read_group: "GroupReader | None" = None,
) -> Float[Tensor, "B T D"]:
    """What every token of x retrieves; the positions in `entries` are those of one layer."""
    read_group = read_group or read_products
    x_UTD = x.reshape(arrangement.num_units, -1, x.shape[-1])
    if arrangement.order is not None:
        x_UTD = x_UTD.index_select(0, arrangement.order)
    parts: list[Tensor] = []
    for group in arrangement.groups:
        queries = x_UTD[group.unit_slice].reshape(group.num_entries, -1, x.shape[-1])
        found = read_group(queries, entries=entries.of_group(group), activation=activation, dropout=dropout)
        parts.append(found.reshape(-1, *x_UTD.shape[1:]))
    out_UTD = parts[0] if len(parts) == 1 else torch.cat(parts)
    if arrangement.inverse is not None:
        out_UTD = out_UTD.index_select(0, arrangement.inverse)
    return out_UTD.view_as(x)


def read_products(
    x: Float[Tensor, "E M D"], *, entries: Entries, activation: Activation, dropout: float
) -> Float[Tensor, "E M D"]:
    """Retrieval for M queries per entry by matrix products; scores stay in float32 or wider until phi is taken."""
    scores = slot_scores(x, entries=entries)
    active = activation(scores)
    if entries.live is not None:
        active = active * entries.live[:, None]
    active = functional.dropout(active, dropout, training=dropout > 0).to(x.dtype)
    found = None if entries.value_positions is None else active @ entries.value_positions
    if entries.value_rows is None:
        assert found is not None
        return found
    num_rows = entries.value_rows.shape[1]
    if found is None:
        return torch.bmm(active, entries.value_rows)
    return torch.baddbmm(found, active[..., :num_rows], entries.value_rows)


def slot_scores(x: Float[Tensor, "E M D"], *, entries: Entries) -> Float[Tensor, "E M S"]:
    """<x, key> for every slot, in float32 or wider."""
    scores = None if entries.key_positions is None else dot(x, entries.key_positions)
    if entries.key_rows is None:
        assert scores is not None
        return scores
    row_scores = dot(x, entries.key_rows)
    if scores is None:
        return row_scores
    num_padded = scores.shape[-1] - row_scores.shape[-1]
    return scores + (functional.pad(row_scores, (0, num_padded)) if num_padded else row_scores)


GroupReader = Callable[..., Tensor]


def choose_form(method: Method, *, dtype: torch.dtype, shared_positions: bool) -> Form:
    """`auto`: build keys once (`direct`) where that is exact enough and shared by all layers, else `split`.

    In 16 bits, adding small image rows to positions rounds 1.7 % of the visual score away; `split` keeps it.
    """
    if method != "auto":
        return method
    exact = dtype in (torch.float32, torch.float64)
    return "direct" if exact and shared_positions else "split"


def retrieve(
    x: Float[Tensor, "B T D"],
    *,
    rows: Float[Tensor, "I P D"],
    key_positions: Float[Tensor, "S D"],
    value_positions: Float[Tensor, "S D"],
    image_index: Int[Tensor, "B"] | Int[Tensor, "B T"],
    activation: Activation,
    visual_scale: float | Tensor = 1.0,
    retrieval_scale: float | Tensor = 1.0,
    insert_in: InsertIn = "both",
    padded_rows: PaddedRows = "live",
    no_image: NoImage = "positions",
    dropout: float = 0.0,
    method: Method = "auto",
) -> Float[Tensor, "B T D"]:
    """Eq. 6 and 12's sum over memory rows, for text states x and projected image rows f(z).

    `image_index` names the image of each sequence or token, -1 for none. Slots beyond an image's rows hold
    positions only. `activation` is the FFN's own.
    """
    arrangement = arrange(image_index, device=x.device)
    scaled = rows * visual_scale
    entries = entries_for(
        arrangement,
        key_rows=scaled,
        value_rows=scaled * retrieval_scale,
        key_positions=key_positions,
        value_positions=value_positions * retrieval_scale,
        insert_in=insert_in,
        padded_rows=padded_rows,
        no_image=no_image,
    )
    form = choose_form(method, dtype=x.dtype, shared_positions=True)
    return read_form(x, entries=entries, arrangement=arrangement, activation=activation, dropout=dropout, form=form)


def read_form(
    x: Float[Tensor, "B T D"],
    *,
    entries: Entries,
    arrangement: Arrangement,
    activation: Activation,
    dropout: float,
    form: Form,
) -> Float[Tensor, "B T D"]:
    """`read` in the given form; folding again what is folded already changes nothing."""
    if form != "split":
        entries = entries.folded()
    read_group = read_loops if form == "reference" else read_products
    return read(
        x,
        entries=entries,
        arrangement=arrangement,
        activation=activation,
        dropout=dropout,
        read_group=read_group,
    )
