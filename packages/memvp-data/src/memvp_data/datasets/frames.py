"""Frames of clips as features: VALUE's `.npz` files in, the 64 rows per clip out that a memory is made of.

Each file holds "features" of shape (frames, 512), CLIP ViT-B/32's image embedding of one frame every 1.5 s in half
precision. A short clip is filled up with rows of zeros, a long one pooled over time by maxima, as VL-PET does it.
"""

import zipfile
from collections.abc import Iterable, Iterator
from os.path import isfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memvp_data.datasets.json_files import DatasetError
from memvp_data.ids import from_id, listed

NUM_FRAMES = 64
_MAX_BYTES = 256 << 20
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zipfile.LargeZipFile)


def load_frames(path: Path | str, *, num_frames: int = NUM_FRAMES) -> NDArray[np.floating]:
    """The features (num_frames, width) of a clip. Raises `DatasetError` naming the file; never unpickles."""
    features = _read_features(Path(path))
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating) or not features.size:
        raise DatasetError(
            f"{path}: features must be floating point (frames, width), got {features.dtype} {features.shape}"
        )
    if len(features) > num_frames:
        return _pooled(features, num_frames=num_frames)
    return np.pad(features, ((0, num_frames - len(features)), (0, 0)))


def frame_records(clip_ids: Iterable[str], *, folder: Path | str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(clip id, {suffix: bytes}) for `write_shards` with kind "features", in the given order."""
    import torch

    from memvp_data.features import SUFFIX, feature_record

    clip_ids = list(clip_ids)
    _check_present([from_id(clip_id) for clip_id in clip_ids], folder=folder)
    for clip_id in clip_ids:
        features = torch.from_numpy(load_frames(Path(folder, from_id(clip_id))))
        yield clip_id, {SUFFIX: feature_record(features)}


def _check_present(names: list[str], *, folder: Path | str) -> None:
    missing = [name for name in names if not isfile(Path(folder, name))]
    if len(missing) > 1:
        clips = f"{len(missing):,} clips are not in {folder} ({listed(missing)})"
        raise DatasetError(f"{clips}; unpack VALUE's features there or take the records out")


def _read_features(path: Path) -> NDArray[np.floating]:
    if not isfile(path):
        raise DatasetError(f"there is no file {path}; unpack VALUE's features there or take the record out")
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = archive.getinfo("features.npy").file_size
        if num_bytes > _MAX_BYTES:
            raise DatasetError(f"{path}: features have {num_bytes:,} bytes, more than the {_MAX_BYTES:,} allowed")
        with np.load(path, allow_pickle=False) as content:
            return content["features"]
    except DatasetError:
        raise
    except Exception as error:
        if not isinstance(error, _READ_ERRORS):
            raise
        raise DatasetError(f"{path} holds no readable array 'features' ({error}); unpack it again") from None


def _pooled(features: NDArray[np.floating], *, num_frames: int) -> NDArray[np.floating]:
    """Maxima over `num_frames` windows that cover the clip, as torch's adaptive_max_pool1d chooses them."""
    length = len(features)
    windows = [(place * length // num_frames, -(-(place + 1) * length // num_frames)) for place in range(num_frames)]
    return np.stack([features[start:stop].max(axis=0) for start, stop in windows])
