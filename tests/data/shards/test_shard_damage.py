"""Damage of any kind is found before a sample of it is used, and named. (webdataset itself misses most.)"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memvp_data.shards import ShardError, verify, write_shards
from memvp_data.shards.reader import ShardReader

RECORDS = [(f"key{number}", {"jpg": bytes([65 + number]) * 900}) for number in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", RECORDS, kind="images", max_shard_samples=2)
    return tmp_path / "s"


def assert_found(folder: Path, *, name: str = "images-00000.tar") -> None:
    faults = verify(folder)
    assert faults, "the damage went unnoticed"
    assert all(name in fault and "\n" not in fault for fault in faults)


def readable(folder: Path) -> dict[str, bytes]:
    """What a careless reader (lengths only) can still get out; anything it returns must be what was written."""
    try:
        reader = ShardReader(folder)
    except ShardError:
        return {}
    found = {}
    for key in reader:
        try:
            found[key] = reader.read(key)
        except ShardError:
            continue  # its words are checked below
    return found


def words_for(place: int) -> str:
    """Where the first shard is damaged, in words: its members are 900 bytes each, at 512 and at 2048."""
    if 512 <= place < 512 + 900:
        return "at key 'key0' (jpg, byte 512)"
    if 2048 <= place < 2048 + 900:
        return "at key 'key1' (jpg, byte 2048)"
    if place < 2048:
        return f"at byte {place} (header of key {'key0' if place < 512 else 'key1'!r})"
    return f"at byte {place} (zeros after its last member)"


@pytest.mark.faults
def test_every_header_byte_and_many_payload_bytes(folder: Path) -> None:
    shard = folder / "images-00000.tar"
    data = shard.read_bytes()
    headers = [*range(512), *range(1536, 2048)]  # 900 bytes of payload take two blocks
    payload = [*range(512, 512 + 900), *range(2048, 2048 + 900)]
    others = np.random.default_rng(0).choice(payload, 200, replace=False).tolist()
    trailer = [*range(512 + 900, 1536, 61), *range(2048 + 900, len(data), 511)]
    for place in headers + others + trailer:
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        shard.write_bytes(damaged)
        (fault,) = verify(folder)
        assert fault == f"shard {shard} is damaged {words_for(place)}; write it again"
        if place % 16 == 0:
            assert readable(folder).items() <= dict(RECORDS).items()


def test_a_flipped_payload_byte_names_its_key(folder: Path) -> None:
    shard = folder / "images-00000.tar"
    data = bytearray(shard.read_bytes())
    data[2048 + 10] ^= 1
    shard.write_bytes(data)
    assert verify(folder) == [f"shard {shard} is damaged at key 'key1' (jpg, byte 2048); write it again"]
    assert verify(folder, full=False) == []
    with pytest.raises(ShardError, match="'key1'"):
        ShardReader(folder, verify="full")
    reader = ShardReader(folder)
    assert reader.read("key0") == RECORDS[0][1]
    with pytest.raises(ShardError, match=r"images-00000\.tar is damaged at key 'key1' \(jpg, byte 2048\)"):
        reader.read("key1")


def test_a_cut_at_any_block(folder: Path) -> None:
    shard = folder / "images-00000.tar"
    data = shard.read_bytes()
    for length in range(0, len(data), 512):
        shard.write_bytes(data[:length])
        assert_found(folder)
        assert readable(folder) == {}
    shard.write_bytes(data + bytes(512))
    assert_found(folder)


def test_a_zeroed_block(folder: Path) -> None:
    shard = folder / "images-00000.tar"
    data = shard.read_bytes()
    for start in range(0, 4096, 512):
        if any(data[start : start + 512]):
            shard.write_bytes(data[:start] + bytes(512) + data[start + 512 :])
            assert_found(folder)


def swap(folder: Path) -> None:
    (folder / "images-00000.tar").rename(folder / "x")
    (folder / "images-00001.tar").rename(folder / "images-00000.tar")
    (folder / "x").rename(folder / "images-00001.tar")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap, r"images-00000\.tar is damaged"),
        (lambda folder: (folder / "images-00001.tar").unlink(), r"images-00001\.tar is missing"),
        (lambda folder: shutil.copy(folder / "images-00000.tar", folder / "images-00002.tar"), r"00002\.tar is not in"),
        (lambda folder: (folder / "index.parquet").unlink(), r"index\.parquet is missing"),
        (lambda folder: (folder / "index.parquet").write_bytes(b"PAR1"), r"index\.parquet is damaged"),
        (lambda folder: (folder / "manifest.json").unlink(), r"has no manifest\.json: it was not finished"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json is not a manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), r"manifest\.json is not a manifest"),
        (lambda folder: shutil.rmtree(folder), r"has no manifest\.json"),
    ],
)
def test_files_swapped_missing_extra_or_broken(folder: Path, damage: Callable, message: str) -> None:
    damage(folder)
    with pytest.raises(ShardError, match=message):
        ShardReader(folder, verify="full")


def test_every_field_of_the_manifest_is_protected(folder: Path) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    shard = content["shards"][0]
    for change in (
        {"kind": "features"},
        {"meta": {"layer": 1}},
        {"index_sha256": "0" * 64},
        {"shards": content["shards"][:1]},
        {"shards": [{**shard, "num_samples": 1}, content["shards"][1]]},
    ):
        path.write_text(json.dumps({**content, **change}))
        assert verify(folder) == [f"{path} is damaged: its digest does not match its content; write the shards again"]
    path.write_text(json.dumps({**content, "schema_version": 2}))
    assert verify(folder) == [f"{path} has schema version 2, this code reads 1; write it again"]


def test_a_manifest_cannot_point_out_of_its_folder(folder: Path) -> None:
    manifest = ShardReader(folder).manifest
    shard = manifest.shards[0]
    outside = type(manifest)("images", (type(shard)("../x.tar", shard.sha256, 1, 1),), manifest.index_sha256)
    (folder / "manifest.json").write_text(outside.to_json())
    (fault,) = verify(folder)
    assert "'../x.tar' must be a plain file name" in fault


def test_an_unknown_key_is_named(folder: Path) -> None:
    with pytest.raises(ShardError, match=r"no key 'nothing' in .* \(4 keys\)"):
        ShardReader(folder).read("nothing")
