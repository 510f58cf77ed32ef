"""Equal images are stored once and found under every name."""

from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from memvp_data.shards import ShardError, verify, write_manifest, write_shard, write_shards
from memvp_data.shards.reader import ShardReader


@settings(max_examples=20)
@given(contents=st.lists(st.integers(0, 3), min_size=1, max_size=12), max_samples=st.integers(1, 3))
def test_every_name_finds_its_image(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int], max_samples: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    records = [(f"k{number:02d}", {"jpg": bytes([kind]) * 600}) for number, kind in enumerate(contents)]
    manifest = write_shards(folder, records, kind="images", max_shard_samples=max_samples, dedupe=True)
    assert manifest.num_samples == len(set(contents))
    assert verify(folder) == []
    reader = ShardReader(folder, verify="full")
    assert {key: reader.read(key) for key in reader} == dict(records) == dict(reader.stream())
    assert {key: contents[int(stored[1:])] for key, stored in reader.same.items()} == {
        key: contents[int(key[1:])] for key in reader.same
    }
    assert sum(len(reader.stored_in(entry.name)) for entry in manifest.shards) == len(set(contents))
    streamed = [
        sample["__key__"]
        for entry in manifest.shards
        for sample in webdataset.WebDataset(str(folder / entry.name), shardshuffle=False)
    ]
    assert sorted([*streamed, *reader.same]) == [key for key, _ in records]


def test_members_count_with_their_names(tmp_path: Path) -> None:
    records = [("a", {"jpg": b"x"}), ("b", {"png": b"x"}), ("c", {"jpg": b"x", "txt": b""}), ("d", {"jpg": b"x"})]
    write_shards(tmp_path, records, kind="images", dedupe=True)
    reader = ShardReader(tmp_path)
    assert reader.same == {"d": "a"}
    assert {key: reader.read(key) for key in reader} == dict(records)


def test_damage_of_a_shared_image_takes_all_its_names(tmp_path: Path) -> None:
    records = [(key, {"jpg": content * 600}) for key, content in (("a", b"x"), ("b", b"y"), ("c", b"x"))]
    write_shards(tmp_path, records, kind="images", dedupe=True)
    shard = tmp_path / "images-00000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    assert len(verify(tmp_path)) == 1
    reader = ShardReader(tmp_path, on_damage="quarantine")
    assert reader.keys() == ["b"]
    assert reader.quarantine is not None
    assert (reader.quarantine.num_kept, reader.quarantine.num_left_out) == (1, 2)


def test_a_name_that_points_beside_an_image_is_refused(tmp_path: Path) -> None:
    entry, rows = write_shard(tmp_path / "a-0.tar", [("a", {"jpg": bytes(600)})])
    with pytest.raises(ShardError, match="samples per shard"):
        write_manifest(
            tmp_path, kind="a", shards=[entry], rows=[*rows, rows[0]._replace(key="b", offset=rows[0].offset + 1)]
        )
