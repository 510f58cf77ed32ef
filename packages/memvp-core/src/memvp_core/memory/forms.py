"""Retrieval from visual memory: the exact forms of one equation, as pure functions.

    retrieved(x) = s * sum_i phi(<x, lambda f(z_i) + pk_i>) (lambda f(z_i) + pv_i)

* `split` keeps image rows and positions apart: <x, lambda f(z_i)> and <x, pk_i> are two products whose sum is the
  score, and the values are two products too. The positions are shared weights; nothing is added per image.
* `factored` is split in another basis. Where the projector's last layer is f(z) = W c with codes c narrower than
  the model, <x, W c> = <W^T x, c>: states are taken to the basis instead of rows to the model's width.
* `direct` adds the rows first, once per call where all layers share the positions.

All run the same `read_form`: they differ only in what `Entries` holds. Slow loops that say the same are in loops.py.

Dimensions: B sequences, T tokens, U units (arrange.py), E entries, M queries of an entry, I images, P rows of an
image, S position rows, N slots, C width of a code, D model width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from memvp_core.config import Form, FormChoice, InsertIn, NoImage, PaddedRows, PositionMode
from memvp_core.flops import Workload, choose_form
from memvp_core.memory.arrange import Arrangement, arrange
from memvp_core.memory.entries import Entries, ReadParts, Scale, entries_for, scaled, widened
from memvp_core.memory.loops import read_loops
from memvp_core.memory.precision import dot, wide, without_autocast

Activation = Callable[[Tensor], Tensor]


GroupReader = Callable[..., Tensor]
"""Retrieval for M queries of each entry: `read_products` or `read_loops`."""


def read_form(
    x: Float[Tensor, "B T D"],
    *,
    entries: Entries,
    arrangement: Arrangement,
    activation: Activation,
    dropout: float,
    form: Form,
) -> Float[Tensor, "B T D"]:
    """What every token of x retrieves, in a form and in the dtype of `entries`, whatever autocast says.

    The positions in `entries` are those of one layer.
    """
    if form in ("direct", "reference"):
        # Folding again what is folded already changes nothing.
        entries = entries.folded()
    read_group = read_loops if form == "reference" else read_products
    with without_autocast(x.device.type):
        return read(
            x,
            entries=entries,
            arrangement=arrangement,
            activation=activation,
            dropout=dropout,
            read_group=read_group,
        )


def read(
    x: Float[Tensor, "B T D"],
    *,
    entries: Entries,
    arrangement: Arrangement,
    activation: Activation,
    dropout: float,
    read_group: GroupReader,
) -> Float[Tensor, "B T D"]:
    """Sort the units of x by entry, read group by group, and sort back."""
    x_UTD = x.reshape(arrangement.num_units, -1, x.shape[-1])
    if arrangement.order is not None:
        x_UTD = x_UTD.index_select(0, arrangement.order)
    parts: list[Tensor] = []
    for group in arrangement.groups:
        queries = x_UTD[group.unit_slice].reshape(group.num_entries, -1, x.shape[-1])
        its_entries = entries if len(arrangement.groups) == 1 else entries.of_group(group)
        found = read_group(queries, entries=its_entries, activation=activation, dropout=dropout)
        parts.append(found.reshape(-1, *x_UTD.shape[1:]))
    out_UTD = parts[0] if len(parts) == 1 else torch.cat(parts)
    if arrangement.inverse is not None:
        out_UTD = out_UTD.index_select(0, arrangement.inverse)
    return out_UTD.view_as(x)


def read_products(
    x: Float[Tensor, "E M D"], *, entries: Entries, activation: Activation, dropout: float
) -> Float[Tensor, "E M D"]:
    """Retrieval for M queries per entry by matrix products; scores stay in float32 or wider until phi is taken."""
    active = scaled(activation(slot_scores(x, entries=entries)), entries.retrieval_scale)
    if entries.live is not None:
        active = active * entries.live[:, None]
    active = functional.dropout(active, dropout, training=dropout > 0)
    return slot_values(active.to(x.dtype), entries=entries)


def slot_scores(x: Float[Tensor, "E M D"], *, entries: Entries) -> Float[Tensor, "E M N"]:
    """<x, key> for every slot, in float32 or wider."""
    positions = None if entries.key_positions is None else dot(x, entries.key_positions)
    rows = None if entries.key_rows is None else dot(_in_basis(x, entries), entries.key_rows)
    if positions is None or rows is None:
        found = rows if positions is None else positions
        assert found is not None
        return found
    if entries.position_mode == "concat":
        return torch.cat([rows, positions], dim=-1)
    return positions + widened(rows, positions.shape[-1])


def _in_basis(x: Tensor, entries: Entries) -> Tensor:
    """lambda W^T x: what the codes are compared with. Kept in float32, so that nothing of the image is rounded."""
    return x if entries.basis is None else scaled(dot(x, entries.basis.mT), entries.row_scale)


def slot_values(active: Float[Tensor, "E M N"], *, entries: Entries) -> Float[Tensor, "E M D"]:
    """sum_i active_i value_i over the slots."""
    num_rows = 0 if entries.value_rows is None else entries.value_rows.shape[1]
    first_position = num_rows if entries.position_mode == "concat" and entries.value_positions is not None else 0
    positions = None
    if entries.value_positions is not None:
        positions = active[..., first_position:] @ entries.value_positions
    if entries.value_rows is None:
        assert positions is not None
        return positions
    active = active[..., :num_rows]
    if entries.basis is not None:
        codes = scaled(wide(active, entries.value_rows), entries.row_scale)
        rows = (codes @ entries.basis.mT.to(codes.dtype)).to(active.dtype)
        return rows if positions is None else positions + rows
    if positions is None:
        return torch.bmm(active, entries.value_rows)
    return torch.baddbmm(positions, active, entries.value_rows)


def retrieve(
    x: Float[Tensor, "B T D"],
    *,
    rows: Float[Tensor, "I P C"],
    basis: Float[Tensor, "D C"] | None = None,
    key_positions: Float[Tensor, "S D"],
    value_positions: Float[Tensor, "S D"],
    image_index: Int[Tensor, "B"] | Int[Tensor, "B T"],
    activation: Activation,
    visual_scale: Scale = 1.0,
    retrieval_scale: Scale = 1.0,
    insert_in: InsertIn = "both",
    position_mode: PositionMode = "add",
    padded_rows: PaddedRows = "live",
    no_image: NoImage = "positions",
    dropout: float = 0.0,
    form: FormChoice = "auto",
) -> Float[Tensor, "B T D"]:
    """Eq. 6 and 12's sum over memory rows, for text states x and projected image rows f(z).

    `rows` are f(z) (C = D), or with a `basis` their codes: f(z) = basis code. `image_index` names the image of each
    sequence or token, -1 for none. Slots beyond an image's rows hold positions only. `activation` is the FFN's own.
    """
    arrangement = arrange(image_index, device=x.device)
    load = Workload(
        num_queries=x.shape[0] * x.shape[1],
        num_entries=len(arrangement.entries),
        num_rows=rows.shape[1],
        num_slots=key_positions.shape[0],
        hidden_size=x.shape[2],
        num_codes=None if basis is None else basis.shape[1],
    )
    form = choose_form(form, load, dtype=x.dtype, device=x.device.type)
    if form == "factored":
        parts = ReadParts(rows, basis, key_positions, value_positions, visual_scale, retrieval_scale)
    else:
        with without_autocast(x.device.type):
            wide_rows = (rows if basis is None else rows @ basis.mT) * visual_scale
        parts = ReadParts(wide_rows, None, key_positions, value_positions, retrieval_scale=retrieval_scale)
    entries = entries_for(
        parts,
        arrangement=arrangement,
        insert_in=insert_in,
        position_mode=position_mode,
        padded_rows=padded_rows,
        no_image=no_image,
    )
    return read_form(x, entries=entries, arrangement=arrangement, activation=activation, dropout=dropout, form=form)
