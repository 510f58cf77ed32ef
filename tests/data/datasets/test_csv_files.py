"""CSV and TSV rows as the csv module reads them, in bounded memory, each fault with its line."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.datasets import csv_files
from memvp_data.datasets.csv_files import read_csv
from memvp_data.datasets.json_files import DatasetError

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), delimiter=st.sampled_from([",", "\t"]))
def test_what_the_csv_module_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("x", "y"), *rows])
    path.write_bytes(text.getvalue().encode())
    assert [tuple(row.values()) for _, row in read_csv(path, delimiter=delimiter)] == rows


def test_lines_are_counted_and_blank_ones_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa,b\r\n\r\n1,"two\nlines"\r\n3,4')
    assert list(read_csv(tmp_path / "a.csv")) == [(4, {"a": "1", "b": "two\nlines"}), (5, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv is empty; its first line must name the columns"),
        (b"a,a\n1,2", r"a\.csv: its first line names a column twice"),
        (b"a,b\n1,2\n1,2,3\n", r"a\.csv, line 3: 3 cells under 2 columns"),
        (b'a,b\n1,"2', r"a\.csv, line 3: not a row of cells \(unexpected end of data\)"),
        (b'a,b\n1,"2"x\n', r"a\.csv, line 2: not a row of cells"),
        (b"a,b\n\xff,2\n", r"a\.csv is not UTF-8 text"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        list(read_csv(tmp_path / "a.csv"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ['a,b\n1,"' + "x\n" * 100_000, "a,b\n1," + "x" * 200_000, "a\n" + '"x\n",' * 50_000]
)
def test_a_row_without_end_is_not_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(csv_files, "_MAX_ROW", 1000)
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DatasetError, match=r"a row of over 1,000 characters|field limit|not a row"):
        list(read_csv(tmp_path / "a.csv"))
    assert csv.field_size_limit() == limit
