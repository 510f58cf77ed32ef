"""Retrieval maps made small enough to look at: averaged over layers and tokens, laid on the grid of patches."""

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor


def mean_over_layers(
    scores: Float[Tensor, "L *rest"], *, layers: Sequence[int] | None = None
) -> Float[Tensor, "*rest"]:
    """Mean over all layers of a map, or over some, counted over the layers with memory."""
    if layers is None:
        return scores.mean(dim=0)
    wrong = [layer for layer in layers if not -len(scores) <= layer < len(scores)]
    if wrong or not layers:
        raise ValueError(
            f"layers must name some of the {len(scores)} layers of this map, got {list(layers)}: "
            f"use 0 to {len(scores) - 1}."
        )
    return scores[list(layers)].mean(dim=0)


def mean_over_tokens(
    scores: Float[Tensor, "*layers B T g"], *, mask: Int[Tensor, "B T"] | Bool[Tensor, "B T"]
) -> Float[Tensor, "*layers B g"]:
    """Mean over the tokens of each sequence that the mask marks: an attention mask, or only the words of interest."""
    if mask.shape != scores.shape[-3:-1]:
        raise ValueError(
            f"the mask must mark each token of the map, {tuple(scores.shape[-3:-1])}; got the shape "
            f"{tuple(mask.shape)}: use a mask of the same batch, such as its attention mask."
        )
    marked = (mask != 0).to(scores)[..., None]
    if not bool(marked.sum(dim=-2).all()):
        raise ValueError("the mask marks no token of some sequence, so there is no mean: mark at least one in each.")
    return (scores * marked).sum(dim=-2) / marked.sum(dim=-2)


def on_grid(scores: Float[Tensor, "*any g"], *, grid: tuple[int, int]) -> Float[Tensor, "*any rows columns"]:
    """Rows of the memory laid where their patches are: left to right, then top to bottom; `grid` is (rows, columns)."""
    num_rows, num_columns = grid
    if num_rows * num_columns != scores.shape[-1]:
        raise ValueError(
            f"a grid of {num_rows} x {num_columns} patches has {num_rows * num_columns} rows, but the map has "
            f"{scores.shape[-1]}: give the grid of the vision tower, and leave out rows that are no patches, such as "
            "a class token (map[..., 1:]) or another image of the entry."
        )
    return scores.reshape(*scores.shape[:-1], num_rows, num_columns)
