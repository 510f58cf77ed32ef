"""An index or manifest that somebody made to harm: its hashes agree, what it says is no index of sound shards."""

import hashlib
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memvp_data.shards import ShardError, verify, write_shards
from memvp_data.shards.layout import INDEX_SCHEMA
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.reader import ShardReader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", [(f"k{n}", {"jpg": bytes([n]) * 700}) for n in range(3)], kind="images")
    return tmp_path / "s"


def put_index(folder: Path, table: pa.Table) -> None:
    """Write an index and a manifest that vouches for it."""
    pq.write_table(table, folder / "index.parquet", compression="zstd")
    manifest = Manifest.load(folder)
    sha256 = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(replace(manifest, index_sha256=sha256).to_json())


def refused(folder: Path) -> str:
    with pytest.raises(ShardError) as caught:
        ShardReader(folder)
    assert str(caught.value) in verify(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -1},
        {"size": -1},
        {"size": 1 << 62},
        {"offset": (1 << 63) - 1},
        {"offset": 1 << 40},
        {"size": 20_000},
        {"shard": "../../etc/passwd"},
        {"shard": "other.tar"},
        {"suffix": "pkl"},
        {"suffix": ""},
        {"key": "../k"},
        {"key": ""},
        {"key": None},
        {"offset": None},
        {"shard": None},
    ],
    ids=str,
)
def test_rows_that_point_elsewhere_are_refused(folder: Path, change: dict[str, Any]) -> None:
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    put_index(folder, pa.Table.from_pylist([rows[0], {**rows[1], **change}, rows[2]], schema=INDEX_SCHEMA))
    assert "index.parquet has a row that no sound shard has" in refused(folder)


def test_a_hash_that_is_wrong_or_missing_lets_nothing_through(folder: Path) -> None:
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    for sha256 in ("", None, "0" * 64):
        put_index(folder, pa.Table.from_pylist([{**rows[0], "sha256": sha256}, *rows[1:]], schema=INDEX_SCHEMA))
        with pytest.raises(ShardError, match="damaged at key 'k0'"):
            ShardReader(folder).read("k0")


def test_rows_apart_and_counts_that_differ_are_refused(folder: Path) -> None:
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    put_index(
        folder, pa.Table.from_pylist([rows[0], rows[1], {**rows[0], "suffix": "png"}, rows[2]], schema=INDEX_SCHEMA)
    )
    assert "rows of one key apart" in refused(folder)
    put_index(folder, pa.Table.from_pylist(rows[:2], schema=INDEX_SCHEMA))
    assert "samples per shard" in refused(folder)


def test_an_index_that_would_unpack_to_gigabytes_is_refused(folder: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array(["x" * 100_000]))
    columns = [
        long if name == "key" else pa.array([None] * 200_000, INDEX_SCHEMA.field(name).type)
        for name in INDEX_SCHEMA.names
    ]
    put_index(folder, pa.Table.from_arrays(columns, names=INDEX_SCHEMA.names))
    assert (folder / "index.parquet").stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "a key of more than 256 characters" in refused(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize("names", [["key"], ["a", "b", "c", "d", "e", "f"], [*INDEX_SCHEMA.names, "more"]], ids=str)
def test_other_tables_are_refused(folder: Path, names: list[str]) -> None:
    put_index(folder, pa.Table.from_arrays([pa.array(["x"])] * len(names), names=names))
    assert "is no index of shards" in refused(folder)


@pytest.mark.parametrize("change", [{"meta": [1]}, {"meta": None}, {"kind": 5}, {"index_sha256": None}])
def test_a_manifest_of_other_kinds_of_values_is_refused(folder: Path, change: dict[str, Any]) -> None:
    manifest = replace(Manifest.load(folder), **change)
    (folder / "manifest.json").write_text(manifest.to_json())
    assert "is not a manifest of shards" in refused(folder)


@pytest.mark.parametrize("change", [{"num_bytes": -1}, {"num_samples": "3"}, {"num_bytes": 1.5}, {"name": 5}])
def test_a_shard_entry_of_other_kinds_of_values_is_refused(folder: Path, change: dict[str, Any]) -> None:
    manifest = Manifest.load(folder)
    (folder / "manifest.json").write_text(replace(manifest, shards=(replace(manifest.shards[0], **change),)).to_json())
    refused(folder)


def test_a_manifest_of_any_length_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 33)
    assert "no manifest is" in refused(folder)
