"""Where steps put what later steps read."""

from pathlib import Path

METRICS_NAME = "metrics.jsonl"


def samples_path(build_folder: Path, name: str) -> Path:
    """The samples table of a split ("stage1", "image", ...) below the build_shards folder."""
    return build_folder / "samples" / f"{name}.parquet"


def predictions_path(evaluate_folder: Path, *, row: str, name: str) -> Path:
    """Answers of one row of the results table on one test slice, below the evaluate folder."""
    return evaluate_folder / "predictions" / row / f"{name}.jsonl"
