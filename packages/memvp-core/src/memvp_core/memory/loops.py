"""The retrieval of folded entries, one query at a time: what `form="reference"` runs, the oracle."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memvp_core.memory.entries import Entries
from memvp_core.reference import Activation


def read_loops(
    x: Float[Tensor, "E M D"], *, entries: Entries, activation: Activation, dropout: float
) -> Float[Tensor, "E M D"]:
    """`memory.read_products` one query at a time, for folded entries."""
    out: list[Tensor] = []
    for number, queries in enumerate(x):
        keys = _rows_of(entries.key_rows, entries.key_positions, number=number)
        values = _rows_of(entries.value_rows, entries.value_positions, number=number)
        for query in queries:
            active = torch.stack([activation(torch.dot(query, key)) for key in keys])
            active = active * entries.retrieval_scale
            if entries.live is not None:
                active = active * entries.live[number]
            active = functional.dropout(active, dropout, training=dropout > 0)
            terms = [weight * value for weight, value in zip(active, values, strict=True)]
            out.append(torch.stack(terms).sum(0))
    return torch.stack(out).view_as(x)


def _rows_of(rows: Tensor | None, positions: Tensor | None, *, number: int) -> Tensor:
    if rows is not None:
        return rows[number]
    assert positions is not None
    return positions
