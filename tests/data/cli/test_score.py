"""`python -m memvp_data score` prints a table, writes JSON and says in one sentence what it cannot score."""

import json
import tomllib
from pathlib import Path

import pytest

from memvp_data.__main__ import main
from memvp_data.samples import Sample, Turn, write_samples

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """40 questions about 20 images; a.jsonl answers three quarters of them right, b.jsonl one half."""
    samples = [
        Sample(str(n), (f"i{n // 2}",), (Turn("user", "?"),), answers=("red",), fields={"structural": "query"})
        for n in range(40)
    ]
    write_samples(tmp_path / "samples.parquet", samples)
    for name, period in (("a", 4), ("b", 2)):
        lines = [{"question_id": str(n), "text": "red" if n % period else ""} for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(files: Path, *arguments: str, predictions: str = "a.jsonl", dataset: str = "gqa") -> int:
    return main(["score", dataset, str(files / predictions), "--samples", str(files / "samples.parquet"), *arguments])


def test_the_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gqa: 40 predictions about 20 images, 25.00 % without a readable answer"
    assert lines[2].split() == ["score", "value", "95", "%", "interval", "n"]
    assert lines[3].split()[:2] == ["accuracy", "75.00"]
    assert lines[-2] == "intervals: 95 %, 1,000 bootstrap resamples of images, seed 0"
    assert lines[-1].startswith("note: 20 images are few: such intervals are too narrow")


def test_the_comparison_and_the_json(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "new" / "scores.json"
    assert run(files, "--compare", str(files / "b.jsonl"), "--out", str(out), "--resamples", "200") == 0
    assert "+25.00" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["scores"]["accuracy"]["value"] == 75
    assert report["differences"]["accuracy"]["value"] == 25
    assert report["differences"]["accuracy"]["p"] < 0.05
    assert (report["resamples"], report["seed"], report["unparsable"]) == (200, 0, 0.25)
    first = out.read_bytes()
    assert run(files, "--compare", str(files / "b.jsonl"), "--out", str(out), "--resamples", "200") == 0
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["scores.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "art"}, "there is no metric 'art'; known: vqav2"),
        ({"predictions": "none.jsonl"}, "none.jsonl does not exist"),
        ({"predictions": "samples.parquet"}, "samples.parquet"),
        ({"dataset": "mme"}, "lacks the field 'subtask'"),
    ],
)
def test_what_cannot_be_scored(
    files: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    out = files / "scores.json"
    assert run(files, "--out", str(out), **change) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.out, printed.err.count("\n"), out.exists()) == ("", 1, False)


def test_one_more_prediction_or_one_less(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "a.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"question_id": "x", "text": ""}\n')
    assert run(files) == 1
    assert "there is a prediction for 'x', which is not among the samples" in capsys.readouterr().err
    path.write_text("".join(whole.splitlines(keepends=True)[1:]))
    assert run(files) == 1
    assert "there is no prediction for sample '0'; predict all samples" in capsys.readouterr().err


def test_no_resamples_and_a_missing_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--resamples", "0") == 1
    assert "at least one resample, got 0" in capsys.readouterr().err
    assert main(["score", "gqa", str(files / "a.jsonl"), "--samples", str(files / "none.parquet")]) == 1
    assert "none.parquet does not exist" in capsys.readouterr().err


def test_the_console_script_is_this_command() -> None:
    project = tomllib.loads((ROOT / "packages/memvp-data/pyproject.toml").read_text())["project"]
    assert project["scripts"]["memvp-data"] == "memvp_data.__main__:main"
    assert main.__module__ == "memvp_data.__main__"
