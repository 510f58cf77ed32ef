"""Shards are plain tars, the same bytes for the same records, complete or absent."""

import hashlib
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from memvp_data.shards import (
    Manifest,
    ShardError,
    load_part,
    save_part,
    verify,
    write_manifest,
    write_shard,
    write_shards,
)
from memvp_data.shards.reader import ShardReader

KEYS = st.text(alphabet="abcXYZ019_-", min_size=1, max_size=128)
MEMBERS = st.dictionaries(st.sampled_from(["jpg", "json", "safetensors", "txt"]), st.binary(max_size=1500), min_size=1)
RECORDS = st.dictionaries(KEYS, MEMBERS, max_size=8).map(lambda content: sorted(content.items()))


def numbered(count: int, *, size: int = 700) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"k{number:04d}", {"jpg": bytes([number % 256]) * size, "txt": b"t"}) for number in range(count)]


@settings(max_examples=15)
@given(records=RECORDS, max_samples=st.integers(1, 4), max_bytes=st.integers(1, 4000))
def test_every_reader_finds_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, records: list, max_samples: int, max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    manifest = write_shards(
        folder, records, kind="images", max_shard_samples=max_samples, max_shard_bytes=max_bytes, meta={"a": (1, 2)}
    )
    assert manifest == Manifest.load(folder)
    assert manifest.num_samples == len(records)
    assert verify(folder) == []
    reader = ShardReader(folder, verify="full")
    assert [(key, reader.read(key)) for key in reader] == records
    streamed = {}
    for entry in manifest.shards:
        assert entry.num_samples <= max_samples
        for sample in webdataset.WebDataset(str(folder / entry.name), shardshuffle=False):
            streamed[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
    assert streamed == dict(records)


def test_equal_records_give_equal_bytes_in_another_process(tmp_path: Path) -> None:
    write_shards(tmp_path / "here", numbered(7), kind="images", max_shard_samples=3)
    script = f"""
        from memvp_data.shards import write_shards
        records = [(f"k{{n:04d}}", {{"txt": b"t", "jpg": bytes([n]) * 700}}) for n in range(7)]
        write_shards({str(tmp_path / "there")!r}, iter(records), kind="images", max_shard_samples=3)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_members_are_plain_files_in_key_order_without_time_or_owner(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", numbered(3))
    with tarfile.open(tmp_path / "a.tar", "r:") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [f"k000{n}.{suffix}" for n in range(3) for suffix in ("jpg", "txt")]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members} == {
        (0, 0, 0, "", "", 0o644, True)
    }


def test_the_entry_describes_the_file(tmp_path: Path) -> None:
    entry, rows = write_shard(tmp_path / "a.tar", numbered(3))
    data = (tmp_path / "a.tar").read_bytes()
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert (entry.num_bytes, entry.num_samples) == (len(data), 3)
    assert [data[row.offset : row.offset + row.size] for row in rows if row.suffix == "jpg"] == [
        members["jpg"] for _, members in numbered(3)
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([("b", {"txt": b""}), ("a", {"txt": b""})], "'a' comes after 'b'"),
        ([("a", {"txt": b""}), ("a", {"txt": b""})], "'a' comes after 'a'"),
        ([("a.b", {"txt": b""})], r"key 'a\.b' is not"),
        ([("../a", {"txt": b""})], r"key '\.\./a' is not"),
        ([("a", {"pkl": b""})], "suffix 'pkl' is not one of"),
        ([("a", {})], "'a' has no members"),
    ],
)
def test_records_that_a_reader_could_not_trust_are_refused(tmp_path: Path, records: list, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        write_shards(tmp_path, records, kind="images")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_an_unfinished_folder_and_writing_again_finishes_it(tmp_path: Path) -> None:
    write_shards(tmp_path / "good", numbered(7), kind="images", max_shard_samples=2)

    def broken():
        yield from numbered(5)
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError):
        write_shards(tmp_path / "a", broken(), kind="images", max_shard_samples=2)
    with pytest.raises(ShardError, match=r"a has no manifest\.json"):
        ShardReader(tmp_path / "a")
    write_shards(tmp_path / "a", numbered(7), kind="images", max_shard_samples=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "good")


def test_fewer_shards_than_before_leave_no_old_one_behind(tmp_path: Path) -> None:
    write_shards(tmp_path, numbered(9), kind="images", max_shard_samples=2)
    write_shards(tmp_path, numbered(3), kind="images", max_shard_samples=2)
    assert sorted(contents(tmp_path)) == ["images-00000.tar", "images-00001.tar", "index.parquet", "manifest.json"]
    assert verify(tmp_path) == []


KILLED_WRITER = """
    import os, signal, sys
    from memvp_data.shards import verify, write as shards
    folder, last = sys.argv[1], int(sys.argv[2])
    records = [(f"k{n:04d}", {"jpg": bytes([n]) * 700, "txt": b"t"}) for n in range(5)]

    def write(at):
        state = {"left": at}
        def step(*_):
            state["left"] -= 1
            if state["left"] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(lambda name, _: step() if name in ("open", "os.rename", "os.remove") else None)
        original = shards._HashingFile.write
        shards._HashingFile.write = lambda self, data: (original(self, data), step())[0]
        shards.write_shards(folder, records, kind="images", max_shard_samples=2)

    at = 0
    while at < last:
        at += 1 + at // 3
        child = os.fork()
        if not child:
            write(at)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        whole = [name for name in os.listdir(folder) if not name.startswith(".tmp-")]
        print(at, status, *whole, flush=True)
        if status == 0:
            break
        faults = verify(folder)
        assert not faults or "manifest.json" not in whole, faults
        for name in whole:
            if name.endswith(".tar"):
                assert open(f"{folder}/{name}", "rb").read() == open(f"{sys.argv[3]}/{name}", "rb").read(), name
    else:
        raise SystemExit("the writer never finished")
"""


@pytest.mark.faults
def test_a_writer_killed_at_any_call_never_leaves_a_wrong_file(tmp_path: Path) -> None:
    good, folder = tmp_path / "good", tmp_path / "a"
    write_shards(good, [(key, members) for key, members in numbered(5)], kind="images", max_shard_samples=2)
    folder.mkdir()
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED_WRITER), str(folder), "2000", str(good)]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n") > 10  # so many places to die were tried
    assert contents(folder) == contents(good)


@pytest.mark.faults
def test_a_full_disk_names_the_file_and_leaves_nothing_of_its_name(tmp_path: Path) -> None:
    script = f"""
        import resource, signal
        from memvp_data.shards import write_shards
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            write_shards({str(tmp_path)!r}, [("a", {{"jpg": bytes(50_000)}})], kind="images")
        except OSError as error:
            print(error)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "images-00000.tar" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_parts_let_a_killed_job_go_on(tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / f"features-{number:05d}.tar"
        entry, rows = write_shard(path, [(f"k{number}", {"txt": b"x"})])
        assert load_part(path) is None
        save_part(path, entry=entry, rows=rows)
        assert load_part(path) == (entry, rows)
    parts = [load_part(path) for path in sorted(tmp_path.glob("*.tar"))]
    assert all(parts)
    entries, rows = [part[0] for part in parts if part], [row for part in parts if part for row in part[1]]
    manifest = write_manifest(tmp_path, kind="features", shards=entries, rows=rows)
    assert (manifest.num_samples, verify(tmp_path)) == (2, [])
    assert not list(tmp_path.glob("*.part.json"))


def test_a_part_whose_shard_changed_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "features-00000.tar"
    entry, rows = write_shard(path, numbered(1))
    save_part(path, entry=entry, rows=rows)
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert load_part(path) is None
    path.unlink()
    assert load_part(path) is None


def test_a_manifest_that_contradicts_its_shards_is_refused(tmp_path: Path) -> None:
    first, rows_a = write_shard(tmp_path / "a-0.tar", numbered(2))
    second, rows_b = write_shard(tmp_path / "a-1.tar", numbered(1))
    with pytest.raises(ShardError, match=r"key 'k0000' is in a-0\.tar and again in a-1\.tar"):
        write_manifest(tmp_path, kind="a", shards=[first, second], rows=rows_a + rows_b)
    with pytest.raises(ShardError, match="samples per shard"):
        write_manifest(tmp_path, kind="a", shards=[first, second], rows=rows_a)
    with pytest.raises(ShardError, match=r"a-0\.tar is listed twice"):
        write_manifest(tmp_path, kind="a", shards=[first, first], rows=rows_a)
    (tmp_path / "a-0.tar").unlink()
    with pytest.raises(ShardError, match=r"a-0\.tar is missing"):
        write_manifest(tmp_path, kind="a", shards=[first], rows=rows_a)


def test_the_digest_tells_contents_and_meta_apart(tmp_path: Path) -> None:
    digests = [
        write_shards(tmp_path / "a", numbered(2), kind="images", meta={"layer": -2}).digest,
        write_shards(tmp_path / "b", numbered(2), kind="images", meta={"layer": -2}).digest,
        write_shards(tmp_path / "c", numbered(2), kind="images", meta={"layer": -1}).digest,
        write_shards(tmp_path / "d", numbered(2, size=701), kind="images", meta={"layer": -2}).digest,
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
