"""MMBench's workbook holds every row once, in order, with the columns LLaVA's converter writes."""

import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.__main__ import main
from memvp_data.datasets.table import find_dataset
from memvp_data.files.spreadsheet import write_xlsx
from memvp_data.metrics.mmbench_submission import write_submission
from memvp_data.metrics.pairing import ScoreError
from memvp_data.samples import write_samples
from tests.data.datasets.official import WRITERS

from .questions import asked, row

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_xlsx(path: Path) -> list[list[str | int | None]]:
    with zipfile.ZipFile(path) as archive:
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
        for name in archive.namelist():
            ElementTree.fromstring(archive.read(name))
    return [[_value(cell) for cell in line] for line in sheet.iter(f"{_SHEET}row")]


def _value(cell: ElementTree.Element) -> str | int | None:
    if (number := cell.find(f"{_SHEET}v")) is not None:
        return int(number.text or "")
    text = cell.find(f"{_SHEET}is/{_SHEET}t")
    return None if text is None else text.text or ""


@pytest.mark.parametrize(("split", "answer"), [("dev", ["answer"]), ("test", [])])
def test_official_files_to_a_workbook(split: str, answer: list[str], tmp_path: Path) -> None:
    WRITERS["mmbench"](tmp_path)
    samples = [*find_dataset("mmbench").read(tmp_path, split=split, check_images=False)]
    path = tmp_path / "submission.xlsx"
    assert write_submission(path, [row(sample.id, f"says {sample.id}") for sample in samples], samples) == len(samples)
    header, *lines = read_xlsx(path)
    assert header == ["index", "question", "A", "B", "C", "D", "prediction", *answer, "split"]
    assert [line[0] for line in lines] == sorted(int(sample.id) for sample in samples)
    by_index = {int(sample.id): sample for sample in samples}
    for line in lines:
        sample, choices = by_index[int(str(line[0]))], json.loads(by_index[int(str(line[0]))].fields["choices"])
        assert line[1] == sample.turns[0].text
        assert line[2:6] == [*choices, None, None][:4]
        assert line[6:] == [f"says {sample.id}", *sample.answers, sample.fields["split"]]


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=3), min_size=1))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("xlsx") / "a.xlsx"
    write_xlsx(path, rows)
    first = path.read_bytes()
    assert read_xlsx(path) == [
        [cell.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd") for cell in line] for line in rows
    ]
    write_xlsx(path, rows)
    assert path.read_bytes() == first


def test_odd_cells(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx", [["a\x00<b>&", -3, None, "x" * 40_000, "=1+1"]])
    assert read_xlsx(tmp_path / "a.xlsx") == [["a\ufffd<b>&", -3, None, "x" * 32_767, "=1+1"]]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [asked("241", "A", text="Which?", index="241", choices='["cat", "dog"]', split="dev")]
    write_samples(tmp_path / "samples.parquet", samples)
    (tmp_path / "a.jsonl").write_text('{"question_id": 241, "text": "A"}\n')
    arguments = ["mmbench-submission", str(tmp_path / "a.jsonl"), "--samples", str(tmp_path / "samples.parquet")]
    assert main([*arguments, "--out", str(tmp_path / "a.xlsx")]) == 0
    assert capsys.readouterr().out.endswith("a.xlsx: 1 rows\n")
    (tmp_path / "a.jsonl").write_text("")
    assert main([*arguments, "--out", str(tmp_path / "a.xlsx")]) == 1
    assert "there is no prediction for sample '241'" in capsys.readouterr().err


def test_other_datasets_are_no_rows(tmp_path: Path) -> None:
    odd = asked("x", "A", index="1", choices='["a", "b"]', split="dev")
    with pytest.raises(ScoreError, match="sample 'x' is no row of MMBench"):
        write_submission(tmp_path / "a.xlsx", [row("x", "A")], [odd])
