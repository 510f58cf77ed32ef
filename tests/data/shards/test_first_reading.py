"""Members are hashed once, whoever reads them first; a byte that was changed is not handed out, then or later."""

import hashlib
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.shards import ShardError, write_shards
from memvp_data.shards.beside import check_all, checked_in_order
from memvp_data.shards.foreign import index_tars
from memvp_data.shards.reader import ShardReader
from memvp_data.shards.verified import SoundMembers

# More than the half MiB that is handed to the second thread at once, and less.
SIZES = [900, 600 << 10, 300 << 10, 1, 300 << 10, 2 << 20, 0, 700]
RECORDS = [
    (f"key{n}", {"jpg": bytes([65 + n]) * size, "json": f'{{"n": {n}}}'.encode()}) for n, size in enumerate(SIZES)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", RECORDS, kind="images", max_shard_samples=6)
    return tmp_path / "s"


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the members that were hashed."""
    hashed = list[int]()

    def sha256(data: bytes) -> "hashlib._Hash":
        hashed.append(len(data))
        return hashlib.sha256(data)

    for module in ("reader", "verification"):
        monkeypatch.setattr(f"memvp_data.shards.{module}.hashlib", SimpleNamespace(sha256=sha256))
    return hashed


def flip(path: Path, place: int) -> None:
    """Change a byte in place and set the time back."""
    time.sleep(0.01)  # a file system's clock may tick slowly
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def places(folder: Path) -> dict[tuple[str, str], tuple[Path, list[int]]]:
    """First, middle and last byte of every member by (key, suffix)."""
    reader = ShardReader(folder)
    rows = [row for key in reader for row in reader.rows(key) if row.size]
    return {
        (row.key, row.suffix): (
            folder / row.shard,
            [row.offset, row.offset + row.size // 2, row.offset + row.size - 1],
        )
        for row in rows
    }


@pytest.mark.parametrize("mode", ["size", "full", "background"])
def test_reading_in_order_equals_reading_each_key_in_every_epoch(folder: Path, mode: str) -> None:
    reader = ShardReader(folder, verify=mode)  # type: ignore[arg-type]
    for _ in range(3):
        assert list(reader.stream()) == RECORDS
        assert [(key, reader.read(key)) for key in reader] == RECORDS


def test_every_member_is_hashed_once(folder: Path, count: list[int]) -> None:
    reader = ShardReader(folder)
    assert reader.read("key1") == RECORDS[1][1]
    assert list(reader.stream()) == RECORDS
    assert sorted(count) == sorted(len(data) for _, members in RECORDS for data in members.values())
    count.clear()
    assert list(reader.stream()) == RECORDS
    assert [(key, reader.read(key)) for key in reader] == RECORDS
    assert list(pickle.loads(pickle.dumps(reader)).stream()) == RECORDS  # noqa: S301 our own bytes
    assert count == []
    assert all(reader.is_hashed(entry.name) for entry in reader.manifest.shards)


def test_what_was_read_is_not_hashed_again_in_the_background(folder: Path, count: list[int]) -> None:
    reader = ShardReader(folder)
    assert list(reader.stream(["images-00000.tar"])) == RECORDS[:6]
    read = len(count)
    reader.sound.start()
    reader.wait_until_verified()
    assert (read, len(count)) == (12, 16)
    assert list(reader.stream()) == RECORDS
    assert len(count) == 16


def test_a_shard_that_was_touched_is_hashed_again(folder: Path, count: list[int]) -> None:
    reader = ShardReader(folder)
    assert list(reader.stream()) == RECORDS
    time.sleep(0.01)
    os.utime(folder / "images-00001.tar")
    count.clear()
    assert list(reader.stream()) == RECORDS
    assert len(count) == 4


@pytest.mark.parametrize(("epoch", "mode"), [(1, "size"), (2, "size"), (2, "full"), (2, "background")])
def test_a_changed_byte_of_any_member_is_never_handed_out(folder: Path, epoch: int, mode: str) -> None:
    order = [(key, suffix) for key, members in RECORDS for suffix, data in sorted(members.items()) if data]
    for key, suffix in order:
        shard, bytes_of = places(folder)[key, suffix]
        for place in bytes_of:
            reader = ShardReader(folder, verify=mode)  # type: ignore[arg-type]
            if epoch == 2:
                reader.wait_until_verified()
                assert list(reader.stream()) == RECORDS
            flip(shard, place)
            given = list[tuple[str, dict[str, bytes]]]()
            with pytest.raises(ShardError, match=rf"is damaged at key '{key}' \({suffix}, byte"):
                given.extend(record for record in reader.stream())
            assert given == RECORDS[: int(key[3:])]
            with pytest.raises(ShardError, match=rf"is damaged at key '{key}' \({suffix}, byte"):
                reader.read(key)
            assert [(one, reader.read(one)) for one in reader if one != key] == [
                record for record in RECORDS if record[0] != key
            ]
            flip(shard, place)
            assert list(reader.stream()) == RECORDS


def test_a_byte_that_changes_while_a_known_shard_is_read_is_noticed(folder: Path) -> None:
    reader = ShardReader(folder, verify="full")
    stream = reader.stream()
    assert next(stream) == RECORDS[0]
    shard, (place, *_) = places(folder)["key4", "jpg"]
    flip(shard, place)
    assert [next(stream) for _ in range(3)] == RECORDS[1:4]
    with pytest.raises(ShardError, match="is damaged at key 'key4'"):
        next(stream)


def test_what_was_sound_before_a_change_is_not_known_after_it(folder: Path) -> None:
    """A slow reader hashes what it read before the change; its verdict must not count for the shard of after."""
    reader = ShardReader(folder)
    sound, shard = reader.sound, "images-00000.tar"
    before = sound.state(shard)
    assert sound.state(shard) is before
    flip(folder / shard, 600)
    after = sound.state(shard)
    sound.add(before, 0)
    assert after is not before
    assert sound.knows(before, 0)
    assert not sound.knows(after, 0)
    assert not sound.knows(sound.state(shard), 0)


@pytest.mark.parametrize(
    ("place", "words"),
    [(10, r"byte 10 \(header of key 'key0'\)"), (-3, r"\(zeros after its last member\)")],
    ids=["header", "end"],
)
def test_the_background_notices_what_lies_between_members(folder: Path, place: int, words: str) -> None:
    shard = folder / "images-00000.tar"
    flip(shard, place % shard.stat().st_size)
    reader = ShardReader(folder, verify="background")
    with pytest.raises(ShardError, match=words):
        reader.wait_until_verified()


def test_the_background_notices_any_change_of_tars_of_others(folder: Path, tmp_path: Path) -> None:
    index_tars(folder, into=tmp_path / "index")
    reader = ShardReader(tmp_path / "index", shards=folder, verify="background")
    reader.wait_until_verified()
    assert list(reader.stream()) == RECORDS
    flip(folder / "images-00001.tar", 10)
    damaged = ShardReader(tmp_path / "index", shards=folder, verify="background")
    with pytest.raises(ShardError, match="between its members, where nothing is read from"):
        damaged.wait_until_verified()


def test_a_folder_elsewhere_is_hashed_at_every_reading(count: list[int]) -> None:
    write_shards("memory://first/s", RECORDS, kind="images")
    reader = ShardReader("memory://first/s")
    for _ in range(2):
        count.clear()
        assert list(reader.stream()) == RECORDS
        assert len(count) == 16


def test_a_fault_of_the_background_ends_a_stream_that_is_under_way(folder: Path) -> None:
    reader = ShardReader(folder)
    stream = reader.stream()
    next(stream)
    reader.sound._fault = "shard x is damaged"
    with pytest.raises(ShardError, match="shard x is damaged"):
        list(stream)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 200 << 10, 600 << 10]), max_size=24),
    bad=st.integers(0, 30),
    ends=st.integers(0, 30),
)
def test_items_come_in_order_up_to_the_first_that_is_wrong(sizes: list[int], bad: int, ends: int) -> None:
    def items():
        for number in range(len(sizes)):
            if number == ends:
                raise ShardError("cannot be read")
            yield number

    def check(number: int) -> None:
        if number == bad:
            raise ShardError("damaged")

    given, message = list[int](), ""
    try:
        for item in checked_in_order(items(), check=check, num_bytes=sizes.__getitem__):
            given.append(item)
    except ShardError as error:
        message = str(error)
    first = min(bad, ends, len(sizes))
    assert given == list(range(first))
    assert message == ("" if first == len(sizes) else "damaged" if first == bad and bad < ends else "cannot be read")


def test_two_threads_check_every_item_once_and_tell_what_they_find() -> None:
    seen = list[int]()
    check_all(range(100), check=seen.append)
    assert sorted(seen) == list(range(100))
    with pytest.raises(ValueError, match="odd"):
        check_all([1] * 10, check=raises_at(1))


def raises_at(wrong: int) -> Callable[[int], None]:
    def check(number: int) -> None:
        if number == wrong:
            raise ValueError("odd")

    return check


def test_members_of_a_shard_may_lie_anywhere_in_the_index(folder: Path) -> None:
    reader = ShardReader(folder)
    index = reader._index
    mixed = index.take([*range(8, 16), *range(8)])
    sound = SoundMembers(reader.folder, manifest=reader.manifest, index=mixed)
    state = sound.state("images-00000.tar")
    sound.add(state, 8)
    assert [sound.knows(state, number) for number in range(4, 16)] == [number == 8 for number in range(4, 16)]
