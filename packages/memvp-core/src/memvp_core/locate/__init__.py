"""Where a word looked, what changes when rows are edited, and pictures of both.

retrieval_maps: how strongly each token activates the rows of its image
maps: such maps made small enough to look at
editing: rows blocked or weakened, rows of a region
faithfulness: whether a map tells the truth
plots: pictures of all of it
"""

from memvp_core.locate.retrieval_maps import (
    mask_rows,
    mean_over_layers,
    mean_over_tokens,
    on_grid,
    retrieval_map,
    rows_in_box,
    scale_rows,
)

__all__ = ["mask_rows", "mean_over_layers", "mean_over_tokens", "on_grid", "retrieval_map", "rows_in_box", "scale_rows"]
