"""The streaming readers agree with the json module, stay small, and say where a file is broken."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memvp_data.datasets import json_files
from memvp_data.datasets.json_files import (
    DatasetError,
    read_json,
    read_json_array,
    read_json_lines,
    read_json_list,
    read_json_members,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=6)


@settings(max_examples=60)
@given(records=RECORDS, chunk=st.integers(1, 40), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_an_array_reads_as_with_json_load_for_any_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, records: list, chunk: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    try:
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    except UnicodeEncodeError:
        return  # a lone surrogate cannot be written unescaped
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_CHUNK", chunk)
        assert list(read_json_array(path)) == json.loads(path.read_text(encoding="utf-8"))


def test_a_large_array_is_never_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = json.dumps({"id": "x", "text": "y" * 1000})
    path.write_text("[" + ",\n".join([record] * 20_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in read_json_array(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < path.stat().st_size / 2  # the file has 20 MB; text in memory is a few chunks of 1 MB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a": }]', r"line 2, column 8: .*Expecting value"),
        ('[{"a": 1}\n {"a": 2}]', r"line 2, column 2: .*expected ']', found '{'"),
        ('[{"a": 1},\n 7]', r"line 2, column 2: .*expected a record '{', found '7'"),
        ('[{"a": 1},\n', r"line 2, column 1: .*found ''"),
        ('[{"a": 1}', r"line 1, column 10: .*expected ']', found the end of the file"),
        ('[{"a": "cut', r"line 1, column 8: .*Unterminated string"),
        ('[{"a": 1}] x', r"line 1, column 12: .*expected the end of the file, found 'x'"),
        ('{"a": 1}', r"line 1, column 1: .*expected '\[', found '{'"),
        ("", r"line 1, column 1: .*expected '\[', found the end of the file"),
        ('[{"a":' + "[" * 200_000, "line 1"),
    ],
)
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_a_broken_array_is_named_with_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, chunk: int
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json, " + message) as caught:
        list(read_json_array(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


def test_records_before_the_fault_are_delivered(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2}, {')
    reader = read_json_array(tmp_path / "a.json")
    assert [next(reader), next(reader)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DatasetError):
        next(reader)


def test_a_record_without_end_is_not_read_to_the_end_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", 10)
    monkeypatch.setattr(json_files, "_MAX_RECORD", 100)
    (tmp_path / "a.json").write_text('[{"a": "' + "x" * 100_000)
    reader = read_json_array(tmp_path / "a.json")
    with pytest.raises(DatasetError, match="Unterminated"):
        next(reader)


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}')
    assert list(read_json_lines(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', r"a\.jsonl, line 2: not a JSON object"),
        (b"[1]\n", r"a\.jsonl, line 1: expected a JSON object, got list"),
        (b"\xff\xfe", r"a\.jsonl is not UTF-8 text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        list(read_json_lines(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("read", [read_json_array, read_json_lines])
def test_a_missing_file_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.json does not exist; download it"):
        list(read(tmp_path / "nothing.json"))


@settings(max_examples=60)
@given(members=st.dictionaries(st.text(max_size=3), VALUES, max_size=4), records=RECORDS, chunk=st.integers(1, 40))
def test_a_list_in_an_object_reads_as_with_json_load(
    tmp_path_factory: pytest.TempPathFactory, members: dict, records: list, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    path.write_text(json.dumps(members | {"records": records, "after": 12345}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_CHUNK", chunk)
        assert list(read_json_list(path, key="records")) == json.loads(path.read_text())["records"]


@settings(max_examples=60)
@given(members=st.dictionaries(st.text(max_size=3), st.dictionaries(st.text(), VALUES)), chunk=st.integers(1, 40))
def test_the_members_of_an_object_read_as_with_json_load(
    tmp_path_factory: pytest.TempPathFactory, members: dict, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("members") / "a.json"
    path.write_text(json.dumps(members))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_CHUNK", chunk)
        assert dict(read_json_members(path)) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"b": [{}]}', r"expected an object with a list \"a\", found none"),
        ('{"a": {}}', r"line 1, column 7: .*expected '\['"),
        ('{"a": [3]}', r"line 1, column 8: .*expected a record '{', found '3'"),
        ('{"a": [{}], "b": 12', r"line 1, column 20: .*expected '}', found the end of the file"),
        ('{"a": [{}] "b": 12}', r"line 1, column 12: .*expected '}', found '\"'"),
        ('{"a": [{}]} {}', r"expected the end of the file"),
        ("{3: []}", r"expected a name in quotes, found '3'"),
        ('{"a" []}', r"expected ':', found '\['"),
        ("[]", r"expected '{', found '\['"),
        ('{"x": ' + "9" * 5000 + "}", r"malformed JSON \(Exceeds the limit"),
        ('{"x": ' + '{"y":' * 100_000, "malformed JSON"),
    ],
)
def test_a_broken_object_is_named_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_json_list(tmp_path / "a.json", key="a"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["0.5", "-1e+10", "1E-7", "12345", "true", "null", "-Infinity", '"x"'])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5])
def test_a_number_that_the_window_cuts_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, chunk: int
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    (tmp_path / "a.json").write_text(f'{{"x": {number}, "y": {number}, "a": [{{"z": {number}}}]}}')
    assert list(read_json_list(tmp_path / "a.json", key="a")) == [{"z": json.loads(number)}]


def test_a_number_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", 10)
    monkeypatch.setattr(json_files, "_MAX_RECORD", 100)
    (tmp_path / "a.json").write_text('{"x": 0.' + "9" * 100_000)
    with pytest.raises(DatasetError, match="expected '}', found '9'"):
        list(read_json_list(tmp_path / "a.json", key="a"))


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"7": {}, "7": {}}')
    with pytest.raises(DatasetError, match="record '7' is there twice"):
        list(read_json_members(tmp_path / "a.json"))


def test_small_files_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, {}]")
    assert read_json(path) == [1, {}]
    for text in ("[1", "9" * 5000, "[" * 200_000):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"a\.json: not a JSON file"):
            read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_json(path)
    monkeypatch.setattr(json_files, "_MAX_WHOLE", 1)
    with pytest.raises(DatasetError, match=r"has more than 0 MiB"):
        read_json(path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.json").write_text("[]")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DatasetError, match=r"a\.json cannot be opened \(Permission denied\); let this user read it"):
        list(read_json_array(tmp_path / "a.json"))
