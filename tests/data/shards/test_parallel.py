"""Any number of processes writes the bytes of one."""

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from memvp_data.images import image_members, image_num_bytes, image_records
from memvp_data.shards import ShardError, verify, write_shards
from memvp_data.shards.parallel import write_shards_in_processes
from tests.data.shards.made_members import dies, members_of, num_bytes_of

SETTINGS = {"kind": "images", "max_shard_samples": 4, "max_shard_bytes": 3000}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("num_processes", [1, 3])
def test_the_result_is_that_of_one_process(tmp_path: Path, num_processes: int) -> None:
    keys = [f"k{number:03d}" for number in range(40)]
    write_shards(tmp_path / "one", ((key, members_of(key)) for key in keys), meta={"a": 1}, **SETTINGS)
    manifest = write_shards_in_processes(
        tmp_path / "many",
        keys,
        members=members_of,
        num_bytes=num_bytes_of,
        num_processes=num_processes,
        meta={"a": 1},
        **SETTINGS,
    )
    assert len(manifest.shards) > 10
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_image_files(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(5):
        Image.new("RGB", (20 + number, 20)).save(tmp_path / f"raw/{number}.jpg")
    ids = [f"{number}_djpg" for number in range(5)]
    write_shards(tmp_path / "one", image_records(ids, image_root=tmp_path / "raw"), **SETTINGS)
    write_shards_in_processes(
        tmp_path / "many",
        ids,
        members=partial(image_members, image_root=tmp_path / "raw"),
        num_bytes=partial(image_num_bytes, image_root=tmp_path / "raw"),
        num_processes=1,
        **SETTINGS,
    )
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.faults
def test_a_process_that_dies_leaves_an_unfinished_folder_and_writing_again_finishes_it(tmp_path: Path) -> None:
    keys = [f"k{number:03d}" for number in range(6)]
    settings = {"num_bytes": num_bytes_of, "num_processes": 2, "kind": "images", "max_shard_samples": 2}
    with pytest.raises(ShardError, match=r"a process that wrote shards of .* died"):
        write_shards_in_processes(tmp_path, keys, members=dies, **settings)
    assert "was not finished" in verify(tmp_path)[0]
    write_shards_in_processes(tmp_path, keys, members=members_of, **{**settings, "num_processes": 1})
    assert verify(tmp_path) == []
    assert not list(tmp_path.glob(".tmp-*"))


def test_sizes_that_were_told_wrong_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="not as long as num_bytes said"):
        write_shards_in_processes(
            tmp_path, ["k001"], members=members_of, num_bytes=lambda key: 1, kind="images", num_processes=1
        )
    with pytest.raises(ValueError, match="at least 1, got 0"):
        write_shards_in_processes(
            tmp_path, ["k001"], members=members_of, num_bytes=num_bytes_of, kind="images", num_processes=0
        )
