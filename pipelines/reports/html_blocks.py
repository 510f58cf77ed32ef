"""Blocks of a report page: tables, bars with intervals, pictures, cards. HTML and CSS only, every text escaped.

What comes in is text of models and of data sets, so nothing here lets any of it become markup. A page is one file:
pictures are embedded, and it loads nothing from anywhere.
"""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_STYLE = Path(__file__).with_name("html_blocks.css")
# The browser itself refuses what no page of ours needs: scripts, and anything from the network.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Html(str):
    """Markup that is safe to put on a page; only the functions of this file make any."""


def page(title: str, *, lead: str, sections: Mapping[str, Sequence[Html]]) -> str:
    """A whole document: title, one paragraph, and those sections that have something in them."""
    filled = {name: Html("".join(blocks)) for name, blocks in sections.items() if any(blocks)}
    links = "".join(f'<a href="#s{number}">{escaped(name)}</a>' for number, name in enumerate(filled))
    body = "".join(
        f'<section id="s{number}"><h2>{escaped(name)}</h2>\n{blocks}</section>\n'
        for number, (name, blocks) in enumerate(filled.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escaped(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f'<body><h1>{escaped(title)}</h1>\n<p class="lead">{escaped(lead)}</p>\n<nav>{links}</nav>\n'
        f"{body}</body></html>\n"
    )


def escaped(value: object) -> Html:
    """Any text as markup that shows it; what already is markup of ours stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def paragraph(value: str, *, kind: str = "") -> Html:
    """One paragraph; `kind` is a class of the style sheet: note, good, bad."""
    return Html(f'<p class="{kind}">{escaped(value)}</p>\n')


def heading(value: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{escaped(value)}</h3>\n")


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Html:
    """First column left, the others right; a table wider than the screen scrolls by itself."""
    head = "".join(f"<th>{escaped(title)}</th>" for title in header)
    return Html(f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n{_body(lines)}</table></div>\n')


def _body(lines: Iterable[Sequence[str]]) -> Html:
    rows = ("".join(f"<td>{escaped(cell)}</td>" for cell in line) for line in lines)
    return Html(f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>")


def number(value: float, *, low: float, high: float, signed: bool = False) -> Html:
    """A table cell: the value, and its interval small below; "-" for a value that is not defined (nan)."""
    if math.isnan(value):
        return Html("-")
    form = "+.1f" if signed else ".1f"
    return Html(f'{value:{form}}<span class="between">{low:{form}} to {high:{form}}</span>')


def facts(entries: Mapping[str, str]) -> Html:
    """Key figures in boxes."""
    boxes = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in entries.items())
    return Html(f'<dl class="facts">{boxes}</dl>\n')


def bars(title: str, *, rows: Mapping[str, tuple[float, float, float]], longest: float) -> Html:
    """A small chart: name -> (value, low, high), the interval drawn as a line over the bar's end; bars start at 0."""
    lines = "".join(_bar(name, value, low, high, longest=longest) for name, (value, low, high) in rows.items())
    return Html(f"<div><h3>{escaped(title)}</h3>{lines}</div>\n")


def _bar(name: str, value: float, low: float, high: float, *, longest: float) -> Html:
    width, start, end = (100 * min(max(part / longest, 0), 1) for part in (value, low, high))
    track = f'<i style="width:{width:.2f}%"></i><b style="left:{start:.2f}%;width:{end - start:.2f}%"></b>'
    label = f"{name}: {value:.1f}, between {low:.1f} and {high:.1f}"
    return Html(
        f'<div class="bar" title="{escaped(label)}"><span>{escaped(name)}</span>'
        f'<span class="track">{track}</span><span>{value:.1f}</span></div>\n'
    )


def side_by_side(charts: Iterable[Html]) -> Html:
    """Charts in as many columns as the screen has room for."""
    return Html(f'<div class="charts">{"".join(charts)}</div>\n')


def picture(content: bytes, *, caption: str) -> Html:
    """A PNG or JPEG, embedded."""
    return Html(f"<figure>{_image(content, alternative=caption)}<figcaption>{escaped(caption)}</figcaption></figure>\n")


def card(title: str, *, image: bytes | None, lines: Iterable[tuple[str, str]]) -> Html:
    """A box with an image, a line of text, and named lines below it."""
    shown = "" if image is None else _image(image, alternative=title)
    return Html(f'<div class="card">{shown}<strong>{escaped(title)}</strong><table>{_body(lines)}</table></div>\n')


def cards(items: Iterable[Html]) -> Html:
    """Cards in as many columns as the screen has room for."""
    return Html(f'<div class="cards">{"".join(items)}</div>\n')


def _image(content: bytes, *, alternative: str) -> Html:
    kind = next((kind for mark, kind in _KINDS.items() if content.startswith(mark)), None)
    if kind is None:
        raise ValueError(f"a page shows PNG and JPEG pictures, got bytes that start with {content[:4]!r}")
    data = base64.b64encode(content).decode()
    return Html(f'<img src="data:{kind};base64,{data}" alt="{escaped(alternative)}">')


def code(value: str) -> Html:
    """Text as it is typed or stored, line by line."""
    return Html(f"<pre>{escaped(value)}</pre>\n")


def folded(title: str, *, block: Html) -> Html:
    """A block that opens when its title is touched."""
    return Html(f"<details><summary>{escaped(title)}</summary>{block}</details>\n")
