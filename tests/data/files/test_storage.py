"""A URL does where a path does, and what could run a program or reach into a network is no place for shards."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import webdataset

from memvp_data.features import FeatureStore, feature_record
from memvp_data.files.storage import SCHEMES, Folder
from memvp_data.shards import ShardError, load_part, save_part, verify, write_shard, write_shards
from memvp_data.shards.reader import ShardReader

RECORDS = [(f"k{number:02d}", {"jpg": bytes([number]) * 700, "txt": b"t"}) for number in range(7)]


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's object store in this process, empty."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_shards_written_on_disk_are_read_from_an_object_store(tmp_path: Path, memory: Any) -> None:
    write_shards(tmp_path, RECORDS, kind="images", max_shard_samples=3)
    memory.put(str(tmp_path) + "/", "/bucket/images/", recursive=True)
    assert verify("memory://bucket/images") == []
    reader = ShardReader("memory://bucket/images", verify="full")
    assert [(key, reader.read(key)) for key in reader] == RECORDS
    assert list(reader.stream()) == RECORDS
    memory.pipe_file("/bucket/images/images-00001.tar", b"short")
    assert "memory://bucket/images/images-00001.tar has 5 bytes instead of" in verify("memory://bucket/images")[0]


def test_the_same_bytes_are_written_to_an_object_store(tmp_path: Path, memory: Any) -> None:
    here = write_shards(tmp_path, RECORDS, kind="images", max_shard_samples=3)
    there = write_shards("memory://bucket/a", iter(RECORDS), kind="images", max_shard_samples=3)
    assert here == there
    stored = {name.rsplit("/", 1)[-1]: memory.cat_file(name) for name in memory.find("/bucket/a")}
    assert stored == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_shards("memory://bucket/a", RECORDS[:2], kind="images", max_shard_samples=3)
    assert verify("memory://bucket/a") == []
    assert len(memory.find("/bucket/a")) == 3


def test_an_object_appears_whole_or_not_at_all(memory: Any) -> None:
    def broken() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield RECORDS[0]
        assert memory.find("/bucket") == []  # nothing is visible while it is made
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError):
        write_shard("memory://bucket/images-00000.tar", broken())
    assert memory.find("/bucket") == []


def test_parts_and_features_work_there_too(memory: Any) -> None:
    place = "memory://bucket/f/features-00000.tar"
    value = torch.arange(6.0).reshape(2, 3)
    entry, rows = write_shard(place, [("a", {"safetensors": feature_record(value)})])
    save_part(place, entry=entry, rows=rows)
    assert load_part(place) == (entry, rows)
    write_shards("memory://bucket/f", [("a", {"safetensors": feature_record(value)})], kind="features")
    assert torch.equal(FeatureStore("memory://bucket/f").load(["a"])[0], value)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    write_shards(f"file://{tmp_path}/a", RECORDS, kind="images")
    assert verify(tmp_path / "a") == []
    assert Folder.at(f"file://{tmp_path}/a").local == tmp_path / "a"


@pytest.mark.parametrize(
    "place",
    [
        "pipe:touch CANARY",
        "pipe:touch CANARY #/images",
        "PIPE:touch CANARY",
        "http://localhost:9/images",
        "https://example.com/images",
        "ftp://example.com/images",
        "simplecache::http://example.com/images",
        "file://a::http://example.com/images",
        "zip://x.tar::memory://bucket",
        "memory:bucket",
        "data:text/plain,x",
        "gopher://x",
    ],
)
def test_schemes_that_run_or_fetch_are_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match=r"is no place for shards; use a local path or abfs://") as caught:
        ShardReader(place)
    assert place in str(caught.value)
    (fault,) = verify(place)
    assert fault == str(caught.value)
    with pytest.raises(ShardError):
        write_shards(place, RECORDS, kind="images")
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_was_made_a_path_is_named() -> None:
    with pytest.raises(ShardError, match="pass the URL as a string"):
        ShardReader(Path("s3://bucket/images"))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    assert "s3" in SCHEMES
    with pytest.raises(ShardError, match=r"s3://bucket needs a library that is not installed \(Install s3fs"):
        ShardReader("s3://bucket")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "/etc/passwd", "a\0b", "a\n"])
def test_only_plain_names_are_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShardError, match="is not the plain name of a file"):
        Folder.at(tmp_path).read(name)


def test_a_local_folder_with_a_colon_in_its_path(tmp_path: Path) -> None:
    write_shards(tmp_path / "run:1", RECORDS, kind="images")
    assert ShardReader(tmp_path / "run:1").read("k00") == RECORDS[0][1]


def test_plain_webdataset_reads_them(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, RECORDS, kind="images", max_shard_samples=3)
    urls = [str(tmp_path / entry.name) for entry in manifest.shards]
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    assert [(sample["__key__"], {"jpg": sample["jpg"], "txt": sample["txt"]}) for sample in samples] == RECORDS


@pytest.mark.parametrize("outside", [False, True])
def test_links_to_shards_are_read_and_what_they_lead_to_is_hashed(tmp_path: Path, outside: bool) -> None:
    """As in the cache of Hugging Face's hub, and under DVC."""
    here, blobs = tmp_path / "here", tmp_path / ("blobs" if outside else "here")
    write_shards(here, RECORDS, kind="images", max_shard_samples=3)
    blobs.mkdir(exist_ok=True)
    for number, path in enumerate(sorted(here.iterdir())):
        target = blobs / f"blob-{number}"
        path.rename(target)
        path.symlink_to(target)
    assert verify(here) == []
    assert list(ShardReader(here, verify="full").stream()) == RECORDS
    target = (here / "images-00001.tar").resolve()
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    assert any("images-00001.tar" in fault for fault in verify(here))
    target.unlink()
    assert any("images-00001.tar is missing" in fault for fault in verify(here))


@pytest.mark.parametrize("name", ["manifest.json", "images-00001.tar"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path, RECORDS, kind="images", max_shard_samples=3)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    said: list[str] = []

    def read() -> None:
        try:
            list(ShardReader(tmp_path).stream())
        except ShardError as error:
            said.append(str(error))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(60)
    assert len(said) == 1
    assert name in said[0]
