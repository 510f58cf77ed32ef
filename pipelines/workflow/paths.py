"""Where steps put what later steps read."""

from pathlib import Path


def samples_path(build_folder: Path, name: str) -> Path:
    """The samples table of a split ("stage1", "image", ...) below the build_shards folder."""
    return build_folder / "samples" / f"{name}.parquet"
