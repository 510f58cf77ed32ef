"""How a global batch is cut: samples into rows (packing), rows into micro-batches, micro-batches over ranks.

Everything here works on places in the global batch and their lengths alone, so that every rank comes to the same plan.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PackedRow = list[int]
"""Places in the global batch that share a row."""


def packed_rows(lengths: Sequence[int], *, row_tokens: int, order: Sequence[int] | None = None) -> list[PackedRow]:
    """Rows of at most `row_tokens` tokens: each sample into the first row with room. A longer one is alone.

    `order` says which sample is placed first; without it the longest is, which leaves the least room unused.
    """
    rows: list[PackedRow] = []
    free: list[int] = []
    longest_first = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    for place in longest_first if order is None else order:
        number = next((number for number, room in enumerate(free) if room >= lengths[place]), len(rows))
        if number == len(rows):
            rows.append([])
            free.append(row_tokens)
        rows[number].append(place)
        free[number] -= lengths[place]
    return rows


def rows_by_image(lengths: Sequence[int], *, images: Sequence[int]) -> list[PackedRow]:
    """One row per sample; by length, but all of an image stand together where its longest stands."""
    longest: dict[int, int] = {}
    for length, image in zip(lengths, images, strict=True):
        longest[image] = max(length, longest.get(image, 0)) if image >= 0 else 0

    def key(place: int) -> tuple[int, int, int, int]:
        image = images[place]
        return (lengths[place] if image < 0 else longest[image], image, lengths[place], place)

    return [[place] for place in sorted(range(len(lengths)), key=key)]


def micro_batches(
    rows: Sequence[PackedRow], *, lengths: Sequence[int], max_rows: int, token_budget: int | None
) -> list[list[PackedRow]]:
    """Consecutive rows, as many as fit `max_rows` and `token_budget` = rows x longest row, padding included."""
    batches: list[list[PackedRow]] = []
    longest = 0
    for row in rows:
        longest = max(longest, _tokens(row, lengths=lengths))
        is_full = not batches or len(batches[-1]) == max_rows
        if is_full or (token_budget is not None and (len(batches[-1]) + 1) * longest > token_budget):
            batches.append([])
            longest = _tokens(row, lengths=lengths)
        batches[-1].append(row)
    return batches


def shared_out(
    batches: Sequence[list[PackedRow]], *, lengths: Sequence[int], world_size: int
) -> list[list[list[PackedRow]]]:
    """The micro-batches of every rank, equally many each, since ranks wait for each other at every one of them.

    Where their number does not divide, the largest are halved. Those of like cost run at the same time, and the rank
    that got the dearest of them gets the cheapest of the next, so that no rank waits long.
    """
    batches = list(batches)
    while len(batches) % world_size:
        largest = max(range(len(batches)), key=lambda number: sum(map(len, batches[number])))
        batches[largest : largest + 1] = _halves(batches[largest])
    dearest = sorted(range(len(batches)), key=lambda number: (-_cost(batches[number], lengths=lengths), number))
    turns = [dearest[start : start + world_size] for start in range(0, len(dearest), world_size)]
    ordered = [turn[::-1] if place % 2 else turn for place, turn in enumerate(turns)]
    return [[batches[turn[rank]] for turn in ordered] for rank in range(world_size)]


def strided(lengths: NDArray[np.integer], *, rank: int, world_size: int, max_rows: int) -> list[list[PackedRow]]:
    """The micro-batches of a rank when they must be equally many and large everywhere: no budget, no packing."""
    own = np.argsort(lengths, kind="stable")[rank::world_size].tolist()
    return [[[place] for place in own[start : start + max_rows]] for start in range(0, len(own), max_rows)]


def image_blocks(
    lengths: Sequence[int], *, images: Sequence[int], rank: int, world_size: int, max_rows: int
) -> list[list[PackedRow]]:
    """As `strided`, but the questions of an image fall into one micro-batch of one rank, where their number allows."""
    rows = rows_by_image(lengths, images=images)
    per_rank = len(rows) // world_size
    batches: list[list[PackedRow]] = []
    for start in range(0, per_rank, max_rows):
        size = min(max_rows, per_rank - start)
        first = start * world_size + rank * size
        batches.append(rows[first : first + size])
    return batches


def _halves(batch: list[PackedRow]) -> list[list[PackedRow]]:
    if len(batch) > 1:
        return [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    (row,) = batch
    assert len(row) > 1, "a global batch divides among the ranks, so one sample alone is never split"
    return [[row[: len(row) // 2]], [row[len(row) // 2 :]]]


def _tokens(row: PackedRow, *, lengths: Sequence[int]) -> int:
    return sum(lengths[place] for place in row)


def _cost(batch: list[PackedRow], *, lengths: Sequence[int]) -> int:
    return len(batch) * max(_tokens(row, lengths=lengths) for row in batch)
