"""A report page is made once for what it shows: not again for the same, always again for anything else."""

from pathlib import Path
from typing import Any

import pytest

from memvp_data.metrics.bootstrap import Interval
from pipelines.reports.drawn_page import current_page, report_key
from pipelines.reports.page import Benchmark, Page, Picture
from pipelines.workflow.step import FinishedStep, StepRecord

STEP = StepRecord("stage1", "key", {"adapter": {"sha256": "1" * 64}}, {}, 1.5)


class _Pages:
    """Makes pages with one picture and counts them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self) -> Page:
        self.count += 1
        picture = self.folder / "figures" / "loss.png"
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(b"\x89PNG\r\n\x1a\n")
        scores = {"tuned": {"accuracy": Interval(50.0, 40.0, 60.0, 8)}}
        return Page(
            "job", "lead", pictures={"Training": (Picture(picture, "loss"),)}, benchmarks=(Benchmark("q", scores),)
        )


@pytest.fixture
def make(tmp_path: Path) -> _Pages:
    return _Pages(tmp_path)


def test_same_page_is_not_made_again(tmp_path: Path, make: _Pages) -> None:
    first = current_page(tmp_path, key="a", make=make)
    assert [path.name for path in first] == ["loss.png", "scores_1.png"]
    assert current_page(tmp_path, key="a", make=make) == first
    assert make.count == 1


def test_page_of_anything_else_is_made_again_and_so_is_the_first_one(tmp_path: Path, make: _Pages) -> None:
    for key in ("a", "b", "a"):
        current_page(tmp_path, key=key, make=make)
    assert make.count == 3


@pytest.mark.parametrize("name", ["report.html", "figures/loss.png", "figures/scores_1.png", "figures/drawn.json"])
def test_missing_file_makes_it_again(tmp_path: Path, make: _Pages, name: str) -> None:
    current_page(tmp_path, key="a", make=make)
    (tmp_path / name).unlink()
    current_page(tmp_path, key="a", make=make)
    assert (tmp_path / name).is_file()
    assert make.count == 2


def test_page_whose_making_was_interrupted_is_made_again(tmp_path: Path, make: _Pages) -> None:
    current_page(tmp_path, key="a", make=make)

    def killed() -> Page:
        make()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        current_page(tmp_path, key="b", make=killed)
    current_page(tmp_path, key="a", make=make)
    assert make.count == 3


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({}, True),
        ({"report": {"reused": ["stage1"], "rows": 1}}, True),
        ({"report": {"reused": [], "rows": 2}}, False),
        ({"settings": {"seed": 1}}, False),
        ({"steps": {}}, False),
    ],
    ids=["nothing", "what was re-used", "a number", "a setting", "a step"],
)
def test_key_is_of_what_the_page_shows(change: dict[str, Any], is_same: bool) -> None:
    shown: dict[str, Any] = {
        "report": {"reused": [], "rows": 1},
        "steps": {"stage1": FinishedStep(STEP, Path("x"), reused=False)},
        "settings": {"seed": 0},
    }
    keys = [
        report_key(given["report"], steps=given["steps"], settings=given["settings"])
        for given in (shown, shown | change)
    ]
    assert (keys[0] == keys[1]) == is_same
