"""Ids are reversible and safe; the samples table gives back what was written, or says what is wrong."""

import copy
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.samples import (
    ID_PATTERN,
    SCHEMA,
    Fields,
    Sample,
    SampleError,
    Turn,
    from_id,
    read_image_ids,
    read_samples,
    to_id,
    write_samples,
)

SEGMENTS = st.text(min_size=1, max_size=12).filter(lambda text: text not in (".", "..") and "/" not in text)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.text(alphabet="abcXYZ019_-", min_size=1, max_size=20)
TURNS = st.builds(Turn, role=st.sampled_from(["system", "user", "assistant"]), text=TEXT)
SAMPLES = st.builds(
    Sample,
    id=IDS,
    image_ids=st.lists(IDS, max_size=3).map(tuple),
    turns=st.lists(TURNS, max_size=4).map(tuple),
    task=TEXT,
    answers=st.lists(TEXT, max_size=3).map(tuple),
    source=TEXT,
    fields=st.dictionaries(TEXT, TEXT, max_size=3),
)
WEIGHTS = st.lists(st.floats(0, 1), max_size=4).map(tuple)


@given(st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join))
def test_a_name_survives_the_way_to_an_id_and_back(name: str) -> None:
    try:
        mapped = to_id(name)
    except SampleError:
        # Only what is unsafe is refused.
        assert re.search(r"[\x00-\x1f\\\ud800-\udfff]", name)
        return
    assert ID_PATTERN.fullmatch(mapped)
    assert from_id(mapped) == name


@given(IDS)
def test_an_id_stands_for_one_name_or_is_refused(name: str) -> None:
    try:
        foreign = from_id(name)
    except SampleError:
        return
    assert to_id(foreign) == name


def test_file_names_stay_readable() -> None:
    assert to_id("coco/train2017/000000033471.jpg") == "coco_strain2017_s000000033471_djpg"
    assert to_id("a_b") == "a_ub"
    assert to_id("é") == "_xc3_xa9"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a.jpg", "a/../../b", "/etc/passwd", "a//b", "a/", "..\\a", "a\0b", "x/" * 2100 + "../x"]
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(SampleError, match="name"):
        to_id(name)


@pytest.mark.parametrize("name", ["_d_d_s_d_d_sa", "_d_d", "_sa", "a_", "a_q", "_x2e_x2e", "_xff", "a.b", "a/b", ""])
def test_ids_that_no_name_has_are_refused(name: str) -> None:
    with pytest.raises(SampleError):
        from_id(name)


@given(st.lists(SAMPLES, max_size=20))
def test_the_table_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    path = tmp_path_factory.mktemp("table") / "samples.parquet"
    assert write_samples(path, samples) == len(samples)
    assert list(read_samples(path)) == samples


def test_row_groups_follow_each_other_and_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    samples = [Sample(str(number), (), (Turn("user", "hi"),)) for number in range(10_000)]
    assert write_samples(tmp_path / "a.parquet", iter(samples)) == 10_000
    write_samples(tmp_path / "b.parquet", samples)
    assert list(read_samples(tmp_path / "a.parquet")) == samples
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_any_part_of_a_table_equals_that_part_of_the_list(tmp_path: Path) -> None:
    samples = [Sample(str(number), ("a",) * (number % 3), ()) for number in range(9000)]
    write_samples(tmp_path / "a.parquet", samples)
    for start, stop in [
        (0, 1),
        (1, 4096),
        (4095, 4097),
        (4096, 4096),
        (4096, 8192),
        (4097, 4100),
        (8999, None),
        (9, 3),
    ]:
        assert list(read_samples(tmp_path / "a.parquet", start=start, stop=stop)) == samples[start:stop]
    assert list(read_image_ids(tmp_path / "a.parquet")) == [sample.image_ids for sample in samples]
    write_samples(tmp_path / "none.parquet", [])
    assert (
        list(read_samples(tmp_path / "none.parquet", stop=3)) == list(read_image_ids(tmp_path / "none.parquet")) == []
    )


def test_a_failing_source_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    write_samples(path, [Sample("kept", (), ())])

    def broken():
        yield Sample("new", (), ())
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError, match="source failed"):
        write_samples(path, broken())
    assert [sample.id for sample in read_samples(path)] == ["kept"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["samples.parquet"]


def test_what_is_not_a_samples_table_is_refused_before_the_first_sample(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"none\.parquet does not exist"):
        read_samples(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("id,turns")
    with pytest.raises(SampleError, match=r"text\.parquet is not a readable Parquet file"):
        read_samples(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(SampleError, match=r"other\.parquet is not a samples table"):
        read_samples(tmp_path / "other.parquet")


def test_a_sample_refuses_bad_ids_roles_and_text() -> None:
    with pytest.raises(SampleError, match=r"'a\.jpg'"):
        Sample("a", ("a.jpg",), ())
    with pytest.raises(SampleError, match="human"):
        Turn("human", "hi")  # type: ignore[arg-type]
    with pytest.raises(SampleError, match="surrogate"):
        Turn("user", "\ud800")


@given(WEIGHTS, st.sampled_from([{}, {"b": "", "a": "é"}]))
def test_weights_and_fields_survive_the_table(
    tmp_path_factory: pytest.TempPathFactory, weights: tuple[float, ...], fields: dict[str, str]
) -> None:
    sample = Sample("a", (), (), answers=("x",) * len(weights), answer_weights=weights, fields=fields)
    path = tmp_path_factory.mktemp("table") / "samples.parquet"
    write_samples(path, [sample])
    (again,) = read_samples(path)
    assert again == sample
    assert (again.answer_weights, again.fields) == (weights, fields)


def test_a_table_of_schema_1_is_still_read(tmp_path: Path) -> None:
    row = {"id": "a", "image_ids": ["i"], "turns": [{"role": "user", "text": "hi"}], "task": "t", "answers": ["x"]}
    old = pa.schema([SCHEMA.field(place) for place in range(6)], metadata={"memvp_samples": "1"})
    pq.write_table(pa.Table.from_pylist([row | {"source": "s"}], schema=old), tmp_path / "old.parquet")
    assert list(read_samples(tmp_path / "old.parquet")) == [
        Sample("a", ("i",), (Turn("user", "hi"),), "t", ("x",), "s")
    ]
    future = SCHEMA.with_metadata({"memvp_samples": "4"})
    pq.write_table(pa.Table.from_pylist([], schema=future), tmp_path / "new.parquet")
    with pytest.raises(SampleError, match=r"new\.parquet is not a samples table of schema 1 or 2 or 3"):
        read_samples(tmp_path / "new.parquet")


def test_fields_are_a_hashable_copy_that_equals_a_dict() -> None:
    content = {"b": "2", "a": "1"}
    sample = Sample("a", (), (), fields=content)
    content["c"] = "3"
    assert sample.fields == {"a": "1", "b": "2"}
    assert list(sample.fields) == ["a", "b"]
    assert sample.fields.get("c") is None
    assert len({sample, Sample("a", (), (), fields={"a": "1", "b": "2"}), Sample("a", (), ())}) == 2
    again = pickle.loads(pickle.dumps(sample))  # noqa: S301 samples go to worker processes
    assert again == sample
    assert copy.deepcopy(sample) == sample
    assert repr(Fields(content)) == "Fields({'a': '1', 'b': '2', 'c': '3'})"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_weights": (1.0,)}, "1 answer weights for 2 answers"),
        ({"answer_weights": (1.0, float("nan"))}, "finite"),
        ({"answer_weights": (1.0, -0.1)}, "not negative"),
        ({"fields": {"n": 3}}, "write numbers and lists as JSON"),
        ({"fields": {"n": "\ud800"}}, "surrogate"),
        ({"answers": ("\udc00",)}, "surrogate"),
        ({"task": "\udc00"}, "surrogate"),
    ],
)
def test_bad_weights_and_fields_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        Sample("a", (), (), **({"answers": ("x", "y")} | changes))
