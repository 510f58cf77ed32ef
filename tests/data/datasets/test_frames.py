"""Clips become 64 rows: short ones filled with zeros, long ones pooled as torch pools them."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from memvp_data.datasets.frames import frame_records, load_frames
from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.video import TVQA, read_tvqa
from memvp_data.features import parse_features
from tests.data.datasets.put_files import put_frames


def test_short_and_exact_clips_keep_their_frames(tmp_path: Path) -> None:
    for num_frames in (10, 64):
        put_frames(tmp_path / "a.npz", num_frames)
        frames = load_frames(tmp_path / "a.npz")
        assert (frames.shape, frames.dtype) == ((64, 512), np.float16)
        np.testing.assert_array_equal(frames[:num_frames], np.load(tmp_path / "a.npz")["features"])
        assert not frames[num_frames:].any()


@pytest.mark.parametrize("num_frames", [65, 90, 127, 128, 500])
def test_long_clips_are_pooled_as_torch_does(tmp_path: Path, num_frames: int) -> None:
    put_frames(tmp_path / "a.npz", num_frames)
    whole = torch.from_numpy(np.load(tmp_path / "a.npz")["features"]).float()
    expected = torch.nn.functional.adaptive_max_pool1d(whole.T[None], 64)[0].T
    torch.testing.assert_close(torch.from_numpy(load_frames(tmp_path / "a.npz")).float(), expected, rtol=0, atol=0)


def test_records_for_shards(official: Callable[[str], Path]) -> None:
    root = official("tvqa")
    clip_ids = sorted({clip for sample in read_tvqa(root, split="val") for clip in sample.image_ids})
    records = list(frame_records(clip_ids, folder=root / TVQA.frames))
    assert [name for name, _ in records] == clip_ids
    assert {tuple(parse_features(members["safetensors"]).shape) for _, members in records} == {(64, 512)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros(5, np.float16)}, r"must be floating point \(frames, width\), got float16 \(5,\)"),
        ({"features": np.zeros((5, 2), np.int64)}, r"must be floating point .* got int64"),
        ({"features": np.zeros((0, 2), np.float16)}, r"must be floating point"),
        ({"features": np.array([[{}]], object)}, r"holds no readable array 'features'"),
        ({"other": np.zeros((5, 2))}, r"holds no readable array 'features'"),
    ],
)
def test_what_holds_no_features_is_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError, match=message):
        load_frames(tmp_path / "a.npz")


def test_missing_damaged_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no file .*none\.npz"):
        load_frames(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(DatasetError, match="holds no readable array"):
        load_frames(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(257 << 20))
    with pytest.raises(DatasetError, match=r"features have 269,484,032 bytes, more than"):
        load_frames(tmp_path / "bomb.npz")
