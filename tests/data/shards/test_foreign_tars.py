"""Tars that others wrote: read in img2dataset's layout, refused with a sentence when they are hostile or broken."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from memvp_data.__main__ import main
from memvp_data.shards import ShardError, verify, write_shards
from memvp_data.shards.foreign import index_tars
from memvp_data.shards.reader import ShardReader


def img2dataset(folder: Path) -> dict[str, dict[str, bytes]]:
    """Two shards as img2dataset writes them: 00000.tar beside 00000.parquet and 00000_stats.json, failures left out."""
    expected = {}
    for shard in range(2):
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        with (folder / f"{shard:05d}.tar").open("wb") as file, webdataset.TarWriter(file, encoder=False) as writer:
            for number in (0, 1, 3):
                key = f"{shard:05d}{number:04d}"
                members = {"jpg": bytes([number + 1]) * 900, "json": json.dumps({"key": key}).encode(), "txt": b"a cat"}
                writer.write({"__key__": key, **members})
                expected[key] = members
    return expected


def tar_of(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, kind: Any = tarfile.GNU_FORMAT) -> bytes:
    with tarfile.open(path, "w", format=kind) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path.read_bytes()


def special(kind: bytes, name: str = "a.jpg", *, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("apart", [False, True], ids=["beside", "in another folder"])
def test_img2datasets_layout(tmp_path: Path, apart: bool) -> None:
    tars, into = tmp_path / "tars", tmp_path / "index" if apart else tmp_path / "tars"
    tars.mkdir()
    expected = img2dataset(tars)
    before = {path.name: path.read_bytes() for path in tars.iterdir()}
    manifest = index_tars(tars, into=into)
    assert (len(manifest.shards), manifest.num_samples) == (2, 6)
    assert verify(into, shards=tars) == []
    reader = ShardReader(into, shards=tars, verify="full")
    assert dict(reader.stream()) == expected == {key: reader.read(key) for key in reader}
    assert {path.name: path.read_bytes() for path in tars.iterdir() if path.name in before} == before
    assert index_tars(tars, into=into) == manifest


def test_damage_of_a_foreign_tar_is_found(tmp_path: Path) -> None:
    img2dataset(tmp_path)
    index_tars(tmp_path)
    data = (tmp_path / "00001.tar").read_bytes()
    start = data.index(bytes([1]) * 900)
    for place, found in ((10, "between its members"), (start + 9, f"at key '000010000' (jpg, byte {start})")):
        damaged = bytearray(data)
        damaged[place] ^= 1
        (tmp_path / "00001.tar").write_bytes(damaged)
        (fault,) = verify(tmp_path)
        assert "00001.tar" in fault
        assert found in fault


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(tmp_path)]) == 1
    assert "there is no *.tar in" in capsys.readouterr().out
    tar_of(tmp_path / "0.tar", ("a.jpg", b"x"), ("a.cls", b"1"))
    assert main(["index", str(tmp_path)]) == 1
    assert "name the suffix in skip_suffixes" in capsys.readouterr().out
    assert main(["index", str(tmp_path), "--skip", "cls", "--into", str(tmp_path / "index")]) == 0
    assert capsys.readouterr().out == "indexed: 1 shards, 1 samples, 1 members left out\n"
    assert main(["verify", str(tmp_path / "index"), "--shards", str(tmp_path)]) == 0
    assert main(["verify", str(tmp_path / "index"), "--shards", str(tmp_path), "--lengths-only"]) == 0


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_plain_tar(tmp_path: Path, kind: int) -> None:
    members = [("./d/photo-1.JPG", b"one" * 300), ("./d/photo-2.jpg", b""), ("x" * 90 + ".txt", b"long")]
    if kind != tarfile.USTAR_FORMAT:
        members += [("y" * 120 + ".txt", b"longer"), ("é/ü.txt", b"not ASCII")]
    tar_of(tmp_path / "a.tar", special(tarfile.DIRTYPE, "d"), *members, kind=kind)
    with pytest.raises(ShardError, match=r"no id .*'\./d/photo-1'"):
        index_tars(tmp_path)
    members = [(name.removeprefix("./"), data) for name, data in members]
    tar_of(tmp_path / "a.tar", special(tarfile.DIRTYPE, "d"), *members, kind=kind)
    index_tars(tmp_path)
    reader = ShardReader(tmp_path)
    assert [next(iter(reader.read(key).values())) for key in reader] == [data for _, data in members]
    assert reader.keys()[0] == "d_sphoto-1"


def test_shards_of_our_own_keep_their_manifest(tmp_path: Path) -> None:
    write_shards(tmp_path / "own", [("k", {"jpg": b"x"})], kind="images", meta={"made": "here"})
    (tmp_path / "tars").mkdir()
    tar_of(tmp_path / "tars/0.tar", ("a.jpg", b"x"))
    with pytest.raises(ShardError, match="holds tars of its own"):
        index_tars(tmp_path / "tars", into=tmp_path / "own")
    with pytest.raises(ShardError, match="needs no other index"):
        index_tars(tmp_path / "own")
    assert verify(tmp_path / "own") == []


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", ["pyd", "pkl", "pickle", "pth", "pt", "npy", "npz", "cls"])
def test_pickled_members_are_refused_or_skipped_and_never_run(tmp_path: Path, suffix: str) -> None:
    payload = pickle.dumps(Canary(tmp_path / "canary"))
    if suffix == "npy":
        file = io.BytesIO()
        np.save(file, np.array([Canary(tmp_path / "canary")], dtype=object), allow_pickle=True)
        payload = file.getvalue()
    tar_of(tmp_path / "a.tar", ("a.jpg", b"x"), (f"a.{suffix}", payload))
    with pytest.raises(ShardError, match=rf"at byte 1536 'a\.{suffix}': suffix '{suffix}' is not one of"):
        index_tars(tmp_path)
    manifest = index_tars(tmp_path, skip_suffixes=(suffix,))
    assert manifest.meta["skipped_members"] == {suffix: 1}
    reader = ShardReader(tmp_path, verify="full")
    assert dict(reader.stream()) == {"a": {"jpg": b"x"}}
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../../etc/passwd.jpg", b"x")], r"at byte 512 the name '\.\./\.\./etc/passwd\.jpg', a way out"),
        ([("/etc/passwd.jpg", b"x")], r"'/etc/passwd\.jpg', a way out"),
        ([("a/../../b.jpg", b"x")], "a way out"),
        ([("a\\..\\b.jpg", b"x")], "a way out"),
        ([special(tarfile.SYMTYPE, target="/etc/passwd")], r"at byte 0 'a\.jpg', of type b'2': a link, device"),
        ([special(tarfile.LNKTYPE, target="b.jpg")], "a link, device"),
        ([special(tarfile.CHRTYPE)], "a link, device"),
        ([special(tarfile.BLKTYPE)], "a link, device"),
        ([special(tarfile.FIFOTYPE)], "a link, device"),
        ([special(tarfile.CONTTYPE)], "a link, device"),
        ([special(tarfile.GNUTYPE_SPARSE)], "a link, device"),
        ([("a.jpg", b"x"), ("b.jpg", b"x"), ("a.txt", b"x")], "key 'a' twice, again at byte 2560"),
        ([("a.jpg", b"x"), ("a.jpg", b"y")], "key 'a' twice"),
        ([("a.jpg", b"x"), ("a.JPG", b"y")], "key 'a' twice"),
        ([("img.v1.0001.jpg", b"x")], r"suffix 'v1\.0001\.jpg' is not one of .* cut at its first dot"),
        ([("x" * 2000 + ".jpg", b"x")], "a name of 2004 characters"),
        ([("\udcff.jpg", b"x")], r"a name that is no id \(name with the lone surrogate"),
    ],
)
def test_hostile_members_are_named(tmp_path: Path, members: list, message: str) -> None:
    tar_of(tmp_path / "a.tar", *members)
    with pytest.raises(ShardError, match=message) as caught:
        index_tars(tmp_path)
    assert "a.tar" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_one_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", ("k.jpg", b"x"))
    tar_of(tmp_path / "b.tar", ("k.jpg", b"x"))
    with pytest.raises(ShardError, match=r"key 'k' is in a\.tar and again in b\.tar"):
        index_tars(tmp_path)


def test_names_webdataset_passes_over_are_counted(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", ("README", b"x"), ("__meta__.json", b"{}"), (".hidden", b""), ("a.txt", b"x"))
    manifest = index_tars(tmp_path)
    assert (manifest.num_samples, manifest.meta["skipped_members"]) == (1, {"": 3})


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: b"BZh9" + data, lambda data: b"(\xb5/\xfd" + data])
def test_compressed_tars_are_refused_unread(tmp_path: Path, pack: Any) -> None:
    data = tar_of(tmp_path / "a.tar", ("a.txt", bytes(1 << 20)))
    (tmp_path / "a.tar").write_bytes(pack(data))
    with pytest.raises(ShardError, match=r"a\.tar is compressed; unpack it"):
        index_tars(tmp_path)


def test_a_cut_or_damaged_tar_is_never_taken_for_a_short_one(tmp_path: Path) -> None:
    data = tar_of(tmp_path / "a.tar", *[(f"k{number}.txt", bytes([65 + number]) * 700) for number in range(3)])
    for length in range(0, 4608 + 512, 512):  # members end at 4608; two blocks of zeros end the archive
        (tmp_path / "a.tar").write_bytes(data[:length])
        with pytest.raises(ShardError, match=r"a\.tar has at byte"):
            index_tars(tmp_path)
    for place in [*range(512), *range(1536, 2048)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / "a.tar").write_bytes(damaged)
        try:
            assert index_tars(tmp_path).num_samples == 3
        except ShardError as error:
            assert "a.tar has at byte" in str(error)  # noqa: PT017 the damage may be harmless, see below
        else:
            assert 148 <= place % 512 < 156  # a space for a leading zero: the same checksum, written otherwise
    (tmp_path / "a.tar").write_bytes(data[:4608] + bytes(1024) + b"x" * 512)
    with pytest.raises(ShardError, match="something after the end"):
        index_tars(tmp_path)


def test_a_header_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.txt")
    info.size = 1 << 42
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ShardError, match=r"a member of 4,398,046,511,104 bytes"):
        index_tars(tmp_path)
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 100_000
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(200_192))
    with pytest.raises(ShardError, match="an extended header of 100,000 bytes"):
        index_tars(tmp_path)


@pytest.mark.parametrize(
    "record", [b"9 path=a", b"x path=a\n", b"99999 path=a\n", b"-5 a=b\n", b"5 abc\n", b"20 size=abc\n"]
)
def test_broken_extended_headers_are_refused(tmp_path: Path, record: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + bytes(1024))
    with pytest.raises(ShardError, match="a broken extended header"):
        index_tars(tmp_path)
