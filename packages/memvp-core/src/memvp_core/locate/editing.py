"""Change what a memory tells the model: block rows, weaken what they show, and find the rows of a region.

Blocking a row and scaling it to 0 differ. A blocked row is never active: its phi is multiplied by 0, as in Fig. 6 of
the paper (arXiv 2405.05615). A row scaled to 0 shows nothing, but its position stays: phi(<x, pk>) pv is still added.
Both give a new memory, compose, and change nothing for other images.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from memvp_core.visual_memory import VisualMemory

Rows = Sequence[int] | Int[Tensor, "r"] | Bool[Tensor, "P"] | Bool[Tensor, "I P"]
"""Numbers of rows, or True for each row meant: of one entry (P,) or of each (I, P)."""


def mask_rows(memory: VisualMemory, rows: Rows, entry: int | None = None) -> VisualMemory:
    """A memory whose chosen rows no layer may activate, in one entry or in all; rows that only pad stay as they are."""
    chosen = _chosen(memory, rows, entry=entry)
    return replace(memory, blocked=chosen if memory.blocked is None else memory.blocked | chosen)


def scale_rows(memory: VisualMemory, rows: Rows, factor: float, entry: int | None = None) -> VisualMemory:
    """A memory whose chosen rows show `factor` times as much of the image, in keys and values; positions stay."""
    if not math.isfinite(factor):
        raise ValueError(f"factor must be a finite number, such as 0 for nothing of the image; got {factor!r}.")
    chosen = _chosen(memory, rows, entry=entry)
    weights = torch.ones(chosen.shape, device=chosen.device) if memory.row_weights is None else memory.row_weights
    return replace(memory, row_weights=torch.where(chosen, weights * factor, weights))


def rows_in_box(
    box: tuple[float, float, float, float], *, image_size: int | tuple[int, int], grid: tuple[int, int]
) -> list[int]:
    """Numbers of the rows whose patches a box touches.

    The box is (left, top, right, bottom) in pixels of the picture that the tower saw, after cropping and padding,
    right and bottom exclusive. `image_size` is (width, height) of that picture, or its side; `grid` is (rows, columns).
    Rows are numbered left to right, then top to bottom; add 1 to them where a class token comes first.
    """
    left, top, right, bottom = box
    width, height = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check_sizes(width, height, grid=grid)
    if not (left < right and top < bottom):
        raise ValueError(f"a box is (left, top, right, bottom) with left < right and top < bottom, got {box}.")
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(
            f"the box {box} reaches out of the picture of {width} x {height} pixels: give it in pixels of the "
            "picture that the vision tower saw, after its resizing, cropping and padding."
        )
    num_rows, num_columns = grid
    columns = _touched(left, right, size=width, count=num_columns)
    return [
        row * num_columns + column for row in _touched(top, bottom, size=height, count=num_rows) for column in columns
    ]


def _touched(start: float, end: float, *, size: int, count: int) -> range:
    """Which of `count` equal parts of `size` pixels the half-open interval touches."""
    return range(int(start * count // size), math.ceil(end * count / size))


def _check_sizes(width: int, height: int, *, grid: tuple[int, int]) -> None:
    if min(width, height, *grid) < 1:
        raise ValueError(
            f"picture and grid must have at least one pixel and one patch a side; got {width} x {height} pixels and "
            f"{grid[0]} x {grid[1]} patches."
        )


def _chosen(memory: VisualMemory, rows: Rows, *, entry: int | None) -> Bool[Tensor, "I P"]:
    """True for the rows meant."""
    if not memory.codes.shape[-1]:
        raise ValueError('a memory of a model with insert_in "none" holds nothing of its images, so no row to edit.')
    shape, device = memory.codes.shape[:2], memory.codes.device
    if isinstance(rows, Tensor) and rows.dtype == torch.bool:
        chosen = _marked(rows, shape=shape, entry=entry).to(device)
    else:
        chosen = _numbered(rows, num_rows=memory.num_rows).to(device).expand(shape)
    if entry is not None:
        chosen = chosen & _only(entry, num_entries=len(memory)).to(device)
    return chosen.clone() if memory.row_images is None else chosen & (memory.row_images >= 0)


def _marked(rows: Tensor, *, shape: torch.Size, entry: int | None) -> Tensor:
    fits = (shape[1:],) if entry is not None else (shape[1:], shape)
    if rows.shape not in fits:
        expected = " or ".join(str(tuple(one)) for one in fits)
        raise ValueError(f"rows marked by true and false must have the shape {expected}, got {tuple(rows.shape)}.")
    return rows.expand(shape)


def _numbered(rows: Sequence[int] | Tensor, *, num_rows: int) -> Tensor:
    numbers = [int(number) for number in rows]
    wrong = [number for number in numbers if not 0 <= number < num_rows]
    if wrong:
        raise ValueError(f"rows holds {wrong[0]}, but an entry of this memory has {num_rows}: use 0 to {num_rows - 1}.")
    marked = torch.zeros(num_rows, dtype=torch.bool)
    marked[torch.tensor(numbers, dtype=torch.long)] = True
    return marked


def _only(entry: int, *, num_entries: int) -> Bool[Tensor, "I 1"]:
    if not -num_entries <= entry < num_entries:
        raise ValueError(
            f"entry is {entry}, but this memory holds {num_entries} images: use 0 to {num_entries - 1}, or None for "
            "all of them."
        )
    return (torch.arange(num_entries) == entry % num_entries)[:, None]
