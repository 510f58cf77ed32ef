"""Where a word looked, what changes when rows are edited, and pictures of both."""

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
