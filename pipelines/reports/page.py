"""The page a person reads: what was run, scores with intervals, curves, maps, answers, settings. `write_page` makes it.

It takes plain data and knows no job: a `Page` of one job, of a single-task recipe, or of any adapters on any
benchmarks looks the same. Who fills it in: page_content.py.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from memvp_data.files.atomic import atomic_write
from memvp_data.metrics.bootstrap import Difference, Interval
from pipelines.reports import html_blocks
from pipelines.reports.html_blocks import Html

_MOST_COLUMNS = 10
"""A benchmark with more scores than that shows them as bars alone; a table of 30 columns tells nobody anything."""


@dataclass(frozen=True)
class Benchmark:
    """Some model states on the same questions."""

    title: str
    """what was asked, e.g. "image questions" or "GQA test-dev" """
    scores: Mapping[str, Mapping[str, Interval]]
    """model state -> name of a score -> score, as in `memvp_data.metrics.suite.Report`; the first is the headline"""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """"a minus b" -> paired difference of the headline, as `Report.differences`"""
    unit: str = "per cent"
    """of all scores"""
    notes: tuple[str, ...] = ()
    """what a reader must know beside the numbers"""


@dataclass(frozen=True)
class Picture:
    """One picture."""

    path: Path
    """PNG or JPEG"""
    caption: str
    """what it shows"""


@dataclass(frozen=True)
class Answer:
    """One question with everything that was answered."""

    question: str
    """what was asked"""
    right: str
    """the right answer"""
    given: Mapping[str, str]
    """model state -> its answer"""
    image: bytes | None = None
    """PNG or JPEG; None for a question without one"""


@dataclass(frozen=True)
class Page:
    """What stands on the page, in this order. What is empty is left out."""

    title: str
    """e.g. the name of the run"""
    lead: str
    """one or two sentences: what this is"""
    facts: Mapping[str, str] = field(default_factory=dict)
    """key figures, name -> value"""
    verdict: tuple[bool, str] | None = None
    """did it pass its evaluation gate, and the sentence that says why"""
    benchmarks: tuple[Benchmark, ...] = ()
    """scores"""
    pictures: Mapping[str, tuple[Picture, ...]] = field(default_factory=dict)
    """title of a section -> its pictures"""
    answers: tuple[Answer, ...] = ()
    """some questions with their answers"""
    command: str = ""
    """what to type to get the same again"""
    settings: str = ""
    """the resolved settings as YAML"""
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """title of a table -> name -> value: versions, digests of data, seconds"""


def write_page(page: Page, *, path: Path) -> Path:
    """Write the page as one self-contained HTML file."""
    with atomic_write(path) as file:
        file.write(render(page).encode())
    return path


def render(page: Page) -> str:
    """The page as HTML."""
    sections: dict[str, list[Html]] = {
        "Results": [*_opening(page), *(block for one in page.benchmarks for block in _benchmark(one))],
    }
    for title, pictures in page.pictures.items():
        sections[title] = [html_blocks.picture(one.path.read_bytes(), caption=one.caption) for one in pictures]
    sections["Some answers"] = [html_blocks.cards(_card(one) for one in page.answers)] if page.answers else []
    sections["The same again"] = list(_origins(page))
    return html_blocks.page(page.title, lead=page.lead, sections=sections)


def _opening(page: Page) -> Iterator[Html]:
    if page.facts:
        yield html_blocks.facts(page.facts)
    if page.verdict is not None:
        passed, reason = page.verdict
        yield html_blocks.paragraph(reason, kind="good" if passed else "bad")


def _benchmark(benchmark: Benchmark) -> Iterator[Html]:
    names = list(dict.fromkeys(name for scores in benchmark.scores.values() for name in scores))
    yield html_blocks.heading(benchmark.title)
    shown = names if len(names) <= _MOST_COLUMNS else names[:1]
    yield html_blocks.table(
        ["model state", "n", *shown],
        [
            [state, _count(scores), *(_cell(scores.get(name)) for name in shown)]
            for state, scores in benchmark.scores.items()
        ],
    )
    yield html_blocks.paragraph(f"In {benchmark.unit}, with 95 % intervals from resampling images.", kind="note")
    for note in benchmark.notes:
        yield html_blocks.paragraph(note, kind="note")
    if benchmark.differences:
        yield _differences(benchmark.differences)
    if len(names) > 1:
        yield html_blocks.folded("every score as a bar, model state by model state", block=_charts(benchmark))


def _count(scores: Mapping[str, Interval]) -> str:
    return f"{next(iter(scores.values())).n:,}"


def _cell(score: Interval | None) -> str:
    return "-" if score is None else html_blocks.number(score.value, low=score.low, high=score.high)


def _differences(differences: Mapping[str, Difference]) -> Html:
    lines = [
        [title, html_blocks.number(one.value, low=one.low, high=one.high, signed=True), f"{one.p:.3f}"]
        for title, one in differences.items()
    ]
    return html_blocks.table(["on the same questions", "difference", "p"], lines)


def _charts(benchmark: Benchmark) -> Html:
    """One small chart per model state, all on the same scale; a score that is not defined (nan) has no bar."""
    states = {
        state: {name: (one.value, one.low, one.high) for name, one in scores.items() if not math.isnan(one.value)}
        for state, scores in benchmark.scores.items()
    }
    longest = max([100.0, *(high for rows in states.values() for _, _, high in rows.values())])
    return html_blocks.side_by_side(
        html_blocks.bars(state, rows=rows, longest=longest) for state, rows in states.items()
    )


def _card(answer: Answer) -> Html:
    lines = [("right", answer.right), *answer.given.items()]
    return html_blocks.card(answer.question, image=answer.image, lines=lines)


def _origins(page: Page) -> Iterator[Html]:
    if page.command:
        yield html_blocks.code(page.command)
    if page.settings:
        yield html_blocks.folded("all settings", block=html_blocks.code(page.settings))
    for title, entries in page.origins.items():
        yield html_blocks.folded(title, block=html_blocks.table(["", ""], entries.items()))
