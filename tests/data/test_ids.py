"""Names that are too long for an id: shortened by a hash, never mixed up, and given back by whoever keeps the id."""

import copy
import io
import pickle
import tarfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.datasets.chats import read_chats
from memvp_data.datasets.llava import read_questions
from memvp_data.datasets.questions import read_questions as read_own_questions
from memvp_data.features import FeatureStore, feature_record
from memvp_data.ids import ID_PATTERN, SampleError, ShortenedId, check_id, from_id, to_id
from memvp_data.images import image_members, image_num_bytes, image_records
from memvp_data.samples import SCHEMA, Sample, read_image_ids, read_samples, write_samples
from memvp_data.shards import ShardError, load_part, save_part, verify, write_manifest, write_shard, write_shards
from memvp_data.shards.foreign import index_tars
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.parallel import write_shards_in_processes
from memvp_data.shards.reader import ShardReader
from tests.data.datasets.put_files import put_images, put_lines
from tests.data.shards.test_hostile_index import put_index

LONG = "図書館の写真/二階の閲覧室/本棚と窓辺の机/写真0001.jpg"
CYRILLIC = "фотографии/вторая полка/яблоко.png"
SEGMENTS = st.tuples(st.text(alphabet="aж書_-", min_size=1, max_size=60), st.sampled_from(["", ".jpg", "._-.a"]))
PATHS = st.lists(SEGMENTS.map("".join), min_size=1, max_size=8).map("/".join)


@given(PATHS)
def test_a_path_of_any_letters_has_one_id_and_that_id_has_the_path(name: str) -> None:
    made = to_id(name)
    assert ID_PATTERN.fullmatch(check_id(made))
    assert made == to_id(name)
    assert from_id(made) == name
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301 ids go to worker processes
        assert again == made
        assert from_id(again) == name


@given(PATHS, PATHS, PATHS, st.integers(0, 40))
def test_different_paths_have_different_ids_however_long_a_beginning_they_share(
    start: str, one: str, other: str, folders: int
) -> None:
    names = {f"{'書架/' * folders}{start}/{end}" for end in (one, other)}
    assert len({str(to_id(name)) for name in names}) == len(names)


@given(PATHS)
def test_an_id_that_fits_is_what_it_always_was(name: str) -> None:
    escapes = {"/": "_s", ".": "_d", "_": "_u"}
    written = [
        letter
        if letter == "-" or (letter.isascii() and letter.isalnum())
        else escapes.get(letter) or "".join(f"_x{byte:02x}" for byte in letter.encode())
        for letter in name
    ]
    fits = len("".join(written)) <= 128
    assert (to_id(name) == "".join(written)) == fits
    assert isinstance(to_id(name), ShortenedId) != fits


def test_shortened_ids_keep_their_beginning_and_hold_no_half_of_an_escape() -> None:
    made = to_id(f"coco/{'a.' * 60}jpg")
    beginning, _, digest = made.rpartition("_h")
    assert beginning == f"coco_s{'a_d' * 18}a"
    assert len(digest) == 64
    assert len(made) <= 128


def test_the_bare_text_of_a_shortened_id_says_where_its_name_is() -> None:
    with pytest.raises(SampleError, match=r'is shortened .* column "names" of the samples table'):
        from_id(str(to_id(LONG)))
    with pytest.raises(SampleError, match=r"has 5,001 bytes, more than the 4,096 of a path; shorten it"):
        to_id("x" * 5001)


@given(st.lists(PATHS, min_size=1, max_size=4, unique=True))
def test_the_samples_table_gives_the_names_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("table") / "samples.parquet"
    samples = [Sample(to_id(name), tuple(map(to_id, names)), ()) for name in names]
    write_samples(path, samples)
    again = list(read_samples(path))
    assert again == samples
    assert [from_id(sample.id) for sample in again] == names
    for ids in [*(sample.image_ids for sample in again), *read_image_ids(path)]:
        assert [from_id(one) for one in ids] == names


def test_a_table_whose_names_are_wrong_is_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.parquet", [Sample(to_id(LONG), (), ())])
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    wrong = {**row, "names": [(row["id"], f"{LONG}.jpg")]}
    pq.write_table(pa.Table.from_pylist([wrong], schema=SCHEMA), tmp_path / "b.parquet")
    with pytest.raises(SampleError, match=r"is said to stand for .*\.jpg\.jpg', whose id is"):
        list(read_samples(tmp_path / "b.parquet"))


def test_a_table_of_schema_2_is_still_read(tmp_path: Path) -> None:
    sample = Sample("a", ("i",), (), answers=("x",), answer_weights=(0.5,), fields={"k": "v"})
    write_samples(tmp_path / "new.parquet", [sample])
    table = pq.read_table(tmp_path / "new.parquet").drop_columns(["names"])
    pq.write_table(table.replace_schema_metadata({"memvp_samples": "2"}), tmp_path / "old.parquet")
    assert list(read_samples(tmp_path / "old.parquet")) == [sample]
    assert list(read_image_ids(tmp_path / "old.parquet")) == [("i",)]


def test_images_of_long_names_go_into_shards_and_out_under_their_names(tmp_path: Path) -> None:
    put_images(tmp_path, LONG, CYRILLIC, "a.jpg")
    ids = sorted(map(to_id, (LONG, CYRILLIC, "a.jpg")))
    write_shards(tmp_path / "s", image_records(ids, image_root=tmp_path), kind="images", dedupe=True)
    reader = ShardReader(tmp_path / "s", verify="full")
    assert sorted(map(from_id, reader)) == sorted(map(from_id, reader.keys())) == sorted((LONG, CYRILLIC, "a.jpg"))
    assert {from_id(key) for key, _ in reader.stream()} == {LONG, CYRILLIC, "a.jpg"}
    stored = [*reader.same, *reader.stored_in("images-00000.tar")]  # two have equal bytes
    assert sorted(map(from_id, stored)) == sorted((LONG, CYRILLIC, "a.jpg"))
    assert reader.read(str(to_id(LONG))) == reader.read(to_id(LONG))
    assert image_num_bytes(to_id(LONG), image_root=tmp_path) == (tmp_path / LONG).stat().st_size


def test_several_processes_and_notes_of_parts_keep_the_names(tmp_path: Path) -> None:
    put_images(tmp_path, *(names := (LONG, CYRILLIC, "a.jpg", "b.jpg")))
    keys = sorted(map(to_id, names))
    many = write_shards_in_processes(
        tmp_path / "many",
        keys,
        members=partial(image_members, image_root=tmp_path),
        num_bytes=partial(image_num_bytes, image_root=tmp_path),
        kind="images",
        num_processes=2,
        max_shard_samples=2,
    )
    records = list(image_records(keys, image_root=tmp_path))
    assert many.digest == write_shards(tmp_path / "one", records, kind="images", max_shard_samples=2).digest
    path = tmp_path / "parts" / "images-00000.tar"
    entry, rows = write_shard(path, records)
    save_part(path, entry=entry, rows=rows)
    noted = load_part(path)
    assert noted == (entry, rows)
    write_manifest(path.parent, kind="images", shards=[entry], rows=noted[1])
    for folder in (tmp_path / "many", path.parent):
        assert sorted(map(from_id, ShardReader(folder))) == sorted(map(from_id, keys))


def test_features_are_found_by_long_names(tmp_path: Path) -> None:
    values = {to_id(name): torch.full((2, 3), float(number)) for number, name in enumerate((LONG, CYRILLIC))}
    records = ((key, {"safetensors": feature_record(values[key])}) for key in sorted(values))
    write_shards(tmp_path, records, kind="features")
    store = FeatureStore(tmp_path)
    assert torch.equal(store.load([str(to_id(CYRILLIC)), to_id(LONG)]), torch.stack([*values.values()][::-1]))
    assert {from_id(image_id) for image_id, _ in store.stream()} == {LONG, CYRILLIC}


def test_an_index_without_shortened_keys_is_what_it_always_was(tmp_path: Path) -> None:
    records = [(f"key{n}", {"jpg": bytes([n]) * 700, "json": b"{}"}) for n in range(3)]
    manifest = write_shards(tmp_path, records, kind="images", meta={"a": 1})
    # Made before shortened ids were known.
    assert manifest.digest == "305ffb031f1320ffff57a78681d59d204c706ed7e7990496c615acebf6e5b822"
    assert "name" not in pq.read_schema(tmp_path / "index.parquet").names


@pytest.mark.parametrize("name", [f"{LONG}.jpg", "../../etc/passwd", "x" * 5000], ids=["another", "outside", "huge"])
def test_an_index_whose_names_are_wrong_is_refused(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path, [(to_id(LONG), {"jpg": b"1"})], kind="images")
    table = pq.read_table(tmp_path / "index.parquet")
    put_index(tmp_path, table.set_column(6, "name", pa.array([name])))
    (fault,) = verify(tmp_path)
    assert "has a name that is not its key's" in fault or "more than 4096 characters" in fault
    with pytest.raises(ShardError, match=r"index\.parquet"):
        ShardReader(tmp_path)


def test_tars_of_others_with_long_names_are_indexed_under_shortened_keys(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in (LONG, "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"jpg"))
    index_tars(tmp_path)
    assert Manifest.load(tmp_path).num_samples == 2
    assert {from_id(key) for key in ShardReader(tmp_path)} == {LONG.removesuffix(".jpg"), "b"}


def test_readers_take_long_names_and_predictions_can_give_them_back(tmp_path: Path) -> None:
    put_images(tmp_path, LONG)
    put_lines(tmp_path / "q.jsonl", [{"question_id": LONG, "text": "Who?", "image": LONG}])
    put_lines(tmp_path / "own.jsonl", [{"id": LONG, "question": "Who?", "answer": "Ann", "image": LONG}])
    put_lines(tmp_path / "chat.jsonl", [{"id": LONG, "prompt": "Who?", "completion": "Ann", "image": LONG}])
    (asked,) = read_questions(tmp_path / "q.jsonl", image_root=tmp_path)
    (own,) = read_own_questions(tmp_path / "own.jsonl", image_root=tmp_path)
    (chat,) = read_chats(tmp_path / "chat.jsonl", image_root=tmp_path)
    for sample in (asked, own, chat):
        assert from_id(sample.id) == from_id(sample.image_ids[0]) == LONG
    assert asked.fields["question_id"] == own.fields["question_id"] == LONG
