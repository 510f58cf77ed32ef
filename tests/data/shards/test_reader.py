"""Ways to open a folder: what each mode notices and when, what is left out, what a copy of a reader knows."""

import pickle
import shutil
import time
from pathlib import Path

import pytest

from memvp_data.shards import ShardError, write_shards
from memvp_data.shards.reader import ShardReader
from memvp_data.shards.verification import verify

RECORDS = [(f"key{number}", {"jpg": bytes([65 + number]) * 900, "txt": b"t"}) for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", RECORDS, kind="images", max_shard_samples=2)
    return tmp_path / "s"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_streaming_gives_everything_in_order(folder: Path) -> None:
    reader = ShardReader(folder)
    assert list(reader.stream()) == RECORDS
    assert list(reader.stream(["images-00001.tar"])) == RECORDS[2:4]
    assert reader.stored_in("images-00002.tar") == ["key4", "key5"]


@pytest.mark.parametrize("mode", ["size", "full"])
def test_streaming_hands_out_nothing_damaged(folder: Path, mode: str) -> None:
    reader = ShardReader(folder, verify=mode)  # type: ignore[arg-type]
    time.sleep(0.01)  # a file system's clock may tick slowly
    flip(folder / "images-00001.tar", 600)
    stream = reader.stream()
    assert [next(stream) for _ in range(2)] == RECORDS[:2]
    with pytest.raises(ShardError, match=r"images-00001\.tar is damaged at key 'key2' \(jpg, byte 512\)"):
        next(stream)
    with pytest.raises(ShardError, match="'key2'"):
        reader.read("key2")
    assert reader.read("key3") == RECORDS[3][1]


def test_what_was_hashed_whole_is_not_hashed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ShardReader(folder, verify="full")
    monkeypatch.setattr("memvp_data.shards.reader.hashlib", None)
    assert list(reader.stream()) == RECORDS
    assert reader.read("key5") == RECORDS[5][1]
    assert pickle.loads(pickle.dumps(reader)).read("key5") == RECORDS[5][1]  # noqa: S301 our own bytes
    monkeypatch.undo()
    shutil.copyfile(folder / "images-00000.tar", folder / "images-00002.tar")
    with pytest.raises(ShardError, match=r"images-00002\.tar is damaged at key 'key5'"):
        reader.read("key5")


def test_a_fault_found_in_the_background_stops_the_next_read(folder: Path) -> None:
    flip(folder / "images-00002.tar", 600)
    reader = ShardReader(folder, verify="background")
    with pytest.raises(ShardError, match=r"images-00002\.tar is damaged at key 'key4' \(jpg, byte 512\)"):
        reader.wait_until_verified()
    with pytest.raises(ShardError, match=r"images-00002\.tar"):
        reader.read("key0")
    with pytest.raises(ShardError, match=r"images-00002\.tar"):
        next(reader.stream())


def test_a_sound_folder_passes_in_the_background(folder: Path) -> None:
    reader = ShardReader(folder, verify="background")
    assert list(reader.stream()) == RECORDS
    reader.wait_until_verified()
    assert all(reader.is_hashed(entry.name) for entry in reader.manifest.shards)
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 our own bytes
    assert list(copy.stream()) == RECORDS


def test_quarantine_leaves_out_what_is_damaged_and_counts_it(folder: Path) -> None:
    flip(folder / "images-00000.tar", 600)  # payload of key0
    flip(folder / "images-00001.tar", 10)  # header of key2: its payload is whole
    (folder / "images-00002.tar").unlink()
    reader = ShardReader(folder, on_damage="quarantine")
    assert list(reader) == ["key1", "key2", "key3"]
    assert list(reader.stream()) == RECORDS[1:4]
    account = reader.quarantine
    assert account is not None
    assert account.left_out == {"images-00000.tar": ("key0",), "images-00002.tar": ("key4", "key5")}
    assert (account.num_kept, account.num_left_out) == (3, 3)
    assert str(account) == "3 samples kept, 3 left out (1 of images-00000.tar, 2 of images-00002.tar), 3 faults"
    assert list(account.faults) == verify(folder)
    with pytest.raises(ShardError, match=r"no key 'key0' in .* \(3 keys\)"):
        reader.read("key0")


def test_quarantine_of_a_cut_shard_keeps_what_lies_before_the_cut(folder: Path) -> None:
    shard = folder / "images-00001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])  # key2 ends before byte 2561, key3 begins at 3072
    reader = ShardReader(folder, on_damage="quarantine")
    assert list(reader) == ["key0", "key1", "key2", "key4", "key5"]
    assert reader.quarantine is not None
    assert reader.quarantine.left_out == {"images-00001.tar": ("key3",)}


def test_quarantine_of_a_sound_folder_is_empty(folder: Path) -> None:
    reader = ShardReader(folder, on_damage="quarantine")
    assert str(reader.quarantine) == "6 samples kept, 0 left out (none), 0 faults"
    assert ShardReader(folder).quarantine is None


@pytest.mark.parametrize("name", ["manifest.json", "index.parquet"])
def test_without_manifest_or_index_nothing_can_be_kept(folder: Path, name: str) -> None:
    flip(folder / name, 40)
    with pytest.raises(ShardError, match=name.replace(".", r"\.")):
        ShardReader(folder, on_damage="quarantine")


@pytest.mark.parametrize("modes", [{"verify": "fast"}, {"on_damage": "skip"}])
def test_unknown_modes_are_named(folder: Path, modes: dict) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        ShardReader(folder, **modes)
    with pytest.raises(ValueError, match="quarantine must know all damage"):
        ShardReader(folder, verify="background", on_damage="quarantine")
