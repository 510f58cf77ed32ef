"""The paper's equations as plain loops: the oracle of the tests.

Written for reading, not for running: nothing here is batched. Equation numbers are those of arXiv 2405.05615. Vectors
are one-dimensional; a matrix of N keys or values has one of them in each row.

Dimensions: D model width, F width of the FFN, S memory slots, P rows of an image, E entries, M queries of an entry.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    pass

Activation = Callable[[Tensor], Tensor]


def memory_rows(
    projected: Float[Tensor, "P D"] | None, *, positions: Float[Tensor, "S D"], visual_scale: float | Tensor
) -> Float[Tensor, "S D"]:
    """lambda f(z_i) + p_i for every slot; slots beyond the image's rows, or without an image, are p_i."""
    rows: list[Tensor] = []
    for slot in range(positions.shape[0]):
        row = positions[slot]
        if projected is not None and slot < projected.shape[0]:
            row = visual_scale * projected[slot] + row
        rows.append(row)
    return torch.stack(rows)


def retrieval(
    x: Float[Tensor, "D"],
    *,
    keys: Float[Tensor, "S D"],
    values: Float[Tensor, "S D"],
    activation: Activation,
) -> Float[Tensor, "D"]:
    """sum_i phi(<x, k_i>) v_i: the memory's share of Eq. 6 and of Eq. 12."""
    found = torch.zeros_like(x)
    for key, value in zip(keys, values, strict=True):
        found = found + activation(torch.dot(x, key)) * value
    return found


def ffn(
    x: Float[Tensor, "D"],
    *,
    w1: Float[Tensor, "F D"],
    w2: Float[Tensor, "F D"],
    w3: Float[Tensor, "F D"] | None = None,
    activation: Activation,
) -> Float[Tensor, "D"]:
    """The FFN as a key-value memory: sum_i phi(<x, w1_i>) w2_i, each term times <x, w3_i> where it is gated."""
    out = torch.zeros_like(x)
    for number in range(w1.shape[0]):
        weight = activation(torch.dot(x, w1[number]))
        gate = torch.dot(x, w3[number]) if w3 is not None else 1.0
        out = out + weight * gate * w2[number]
    return out


def ffn_with_memory(
    x: Float[Tensor, "D"],
    *,
    w1: Float[Tensor, "F D"],
    w2: Float[Tensor, "F D"],
    w3: Float[Tensor, "F D"] | None = None,
    keys: Float[Tensor, "S D"],
    values: Float[Tensor, "S D"],
    activation: Activation,
    retrieval_scale: float | Tensor = 1.0,
) -> Float[Tensor, "D"]:
    """Eq. 6 (Eq. 12 where the FFN is gated by w3): the FFN plus what the memory rows return."""
    found = retrieval(x, keys=keys, values=values, activation=activation)
    return ffn(x, w1=w1, w2=w2, w3=w3, activation=activation) + retrieval_scale * found


def concatenated_weights(
    x: Float[Tensor, "D"],
    *,
    w1: Float[Tensor, "F D"],
    w2: Float[Tensor, "F D"],
    w3: Float[Tensor, "F D"] | None = None,
    keys: Float[Tensor, "S D"],
    values: Float[Tensor, "S D"],
    retrieval_scale: float | Tensor = 1.0,
) -> tuple[Float[Tensor, "F+S D"], Float[Tensor, "F+S D"], Float[Tensor, "F+S D"] | None]:
    """Eq. 8 (Eq. 11 where gated): the memory rows appended to W1, W2, W3.

    The appended rows of W3 are x / |x|^2, whose product with x is a gate of 1; so W3 belongs to this x alone.
    """
    if w3 is not None:
        gate_row = x / torch.dot(x, x)
        w3 = torch.cat([w3, gate_row.repeat(keys.shape[0], 1)])
    return torch.cat([w1, keys]), torch.cat([w2, retrieval_scale * values]), w3
