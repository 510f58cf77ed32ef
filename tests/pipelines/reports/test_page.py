"""The report page: all that was given is on it, no text of models or data becomes markup, nothing is loaded."""

import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from memvp_data.metrics.bootstrap import Difference, Interval
from pipelines.reports import html_blocks
from pipelines.reports.page import Answer, Benchmark, Page, Picture, render, write_page

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(1)> \"' & &lt;b&gt;"
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Tags in order, their attributes, and the text; fails where tags do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    (tmp_path / "loss.png").write_bytes(png())
    scores = {"accuracy": Interval(62.5, 50.25, 71.0, 1234), "colour": Interval(80.0, 70.0, 90.0, 100)}
    return Page(
        title="a job",
        lead="what it is",
        facts={"trained": "34,960 numbers"},
        verdict=(False, "not the champion: 62.5 is below 70"),
        benchmarks=(
            Benchmark(
                "image questions",
                {"tuned": scores, "blind": {"accuracy": Interval(40.0, 30.0, 50.0, 1234)}},
                {"tuned minus blind": Difference(22.5, 10.0, 30.0, 0.002)},
                notes=("few images",),
            ),
        ),
        pictures={"Curves": (Picture(tmp_path / "loss.png", "the loss"),)},
        answers=(Answer("what colour ?", "red", {"tuned": "blue"}, png("blue")), Answer("and now ?", "yes", {})),
        command="python pipelines/x.py --a=1",
        settings="name: a\n",
        origins={"versions": {"torch": "2"}},
    )


def test_everything_given_is_on_the_page(page: Page) -> None:
    text = Reader(render(page)).text
    for phrase in (
        "a job", "what it is", "34,960 numbers", "not the champion: 62.5 is below 70", "image questions", "1,234",
        "62.5", "50.2 to 71.0", "+22.5", "+10.0 to +30.0", "0.002", "few images", "Curves", "the loss", "what colour ?",
        "blue", "and now ?", "python pipelines/x.py --a=1", "name: a", "versions", "torch",
    ):  # fmt: skip
        assert phrase in text, phrase


def test_page_is_one_file_that_loads_nothing(page: Page) -> None:
    reader = Reader(render(page))
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    sources = [value for name, value in reader.attributes if name == "src"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href")


def test_hostile_text_stays_text_wherever_it_comes_in(page: Page) -> None:
    benchmark = Benchmark(
        HOSTILE,
        {HOSTILE: {HOSTILE: Interval(1, 1, 1, 1), "b": Interval(1, 1, 1, 1)}},
        {HOSTILE: Difference(1, 1, 1, 1)},
        unit=HOSTILE,
        notes=(HOSTILE,),
    )
    pictures = {HOSTILE: tuple(replace(one, caption=HOSTILE) for one in page.pictures["Curves"])}
    hostile = Page(
        title=HOSTILE, lead=HOSTILE, facts={HOSTILE: HOSTILE}, verdict=(True, HOSTILE), benchmarks=(benchmark,),
        pictures=pictures, answers=(Answer(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, png()),), command=HOSTILE,
        settings=HOSTILE, origins={HOSTILE: {HOSTILE: HOSTILE}},
    )  # fmt: skip
    reader = Reader(render(hostile))
    assert "script" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.tags.count("img") == 2  # the picture and the card's image, none of the text's
    assert reader.text.count(HOSTILE) >= 18


def test_empty_parts_are_left_out() -> None:
    reader = Reader(render(Page(title="t", lead="l")))
    assert "section" not in reader.tags
    assert "img" not in reader.tags


def test_undefined_scores_and_gaps_are_dashes() -> None:
    nan = float("nan")
    benchmark = Benchmark(
        "b", {"x": {"a": Interval(nan, nan, nan, 3)}, "y": {"a": Interval(5, 4, 6, 3), "c": Interval(1, 1, 1, 1)}}
    )
    source = render(Page(title="t", lead="l", benchmarks=(benchmark,)))
    assert "nan" not in source.split("</style>")[1]
    assert Reader(source).text.count("-") >= 2


def test_scores_above_a_hundred_share_one_scale() -> None:
    scores = {"cider": Interval(150.0, 140.0, 160.0, 3), "other": Interval(80.0, 70.0, 90.0, 3)}
    styles = [
        value
        for name, value in Reader(
            render(Page(title="t", lead="l", benchmarks=(Benchmark("b", {"x": scores}),)))
        ).attributes
        if name == "style"
    ]
    assert styles[0] == f"width:{100 * 150 / 160:.2f}%"
    assert styles[2] == f"width:{100 * 80 / 160:.2f}%"


def test_many_scores_make_a_narrow_table() -> None:
    scores = {f"score {number}": Interval(1, 1, 1, 1) for number in range(30)}
    reader = Reader(render(Page(title="t", lead="l", benchmarks=(Benchmark("b", {"x": scores}),))))
    assert reader.tags.count("th") == 3
    assert all(f"score {number}" in reader.text for number in range(30))


def test_other_bytes_are_no_picture() -> None:
    with pytest.raises(ValueError, match="PNG and JPEG"):
        html_blocks.picture(b"<svg onload=alert(1)>", caption="x")


def test_page_is_written_whole(page: Page, tmp_path: Path) -> None:
    path = write_page(page, path=tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render(page)
