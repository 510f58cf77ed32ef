"""A conversation in the tokenizer's own chat template, with the tokens of each answer told apart.

The template is rendered once with markers instead of words, which shows where each turn stands. Words that look like
special tokens stay words. An answer is learnt with the special token that ends it, so that the model learns to stop.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from memvp_data.samples import Sample, Turn

_MARKER = re.compile("\ue000(\\d+)\ue001")
Span = tuple[int, int]


def chat_pieces(sample: Sample, *, tokenizer: Any, cue: str = "") -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids) of every round; of a last question without answer, the prompt to answer and `cue`.

    Raises `ValueError` if the tokenizer has no chat template, or one that hides or rewrites turns.
    """
    if not getattr(tokenizer, "chat_template", None):
        kind = type(tokenizer).__name__
        raise ValueError(
            f"template 'chat_template' needs a tokenizer that has one, the {kind} for sample {sample.id!r} has none; "
            "use an instruction-tuned model's tokenizer, or another template"
        )
    is_open = sample.turns[-1].role == "user"
    text = _rendered(sample.turns, tokenizer=tokenizer, is_open=is_open)
    spans = _spans(sample, text=text, tokenizer=tokenizer, is_open=is_open)
    answers = _answers(sample, text=text, spans=spans, tokenizer=tokenizer)
    text += cue
    borders = [border for answer in answers for border in answer] + [len(text) - len(cue), len(text)] * is_open
    pieces = _cut(text, borders, spans=_unsafe(text, spans=spans, tokenizer=tokenizer), tokenizer=tokenizer)
    return list(zip(pieces[::2], pieces[1::2], strict=True))


def _rendered(turns: Sequence[Turn], *, tokenizer: Any, is_open: bool, marked: bool = False) -> str:
    messages = [
        {"role": turn.role, "content": f"\ue000{place}\ue001" if marked else turn.text}
        for place, turn in enumerate(turns)
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_open)


def _spans(sample: Sample, *, text: str, tokenizer: Any, is_open: bool) -> dict[int, Span]:
    """Where the words of each turn stand in the text, by the turn's place."""
    marked = _MARKER.split(_rendered(sample.turns, tokenizer=tokenizer, is_open=is_open, marked=True))
    literals, places = marked[::2], [int(place) for place in marked[1::2]]
    if sorted(places) != list(range(len(sample.turns))):
        raise ValueError(f"the chat template shows turns {places} of the {len(sample.turns)} of sample {sample.id!r}")
    spans: dict[int, Span] = {}
    position = len(literals[0])
    for place, literal in zip(places, literals[1:], strict=True):
        words = sample.turns[place].text
        forms = (words, words.strip(), words.lstrip(), words.rstrip())
        form = next((form for form in forms if text.startswith(form + literal, position)), None)
        if form is None:
            raise ValueError(f"the chat template rewrites the words of turn {place} of sample {sample.id!r}")
        spans[place] = (position, position + len(form))
        position += len(form) + len(literal)
    return spans


def _answers(sample: Sample, *, text: str, spans: dict[int, Span], tokenizer: Any) -> list[Span]:
    """Where each answer is learnt: from the end of its prompt to its words' end, with a special token that follows."""
    answers: list[Span] = []
    for place, turn in enumerate(sample.turns):
        if turn.role != "assistant":
            continue
        prompt = _rendered(sample.turns[:place], tokenizer=tokenizer, is_open=True)
        if not text.startswith(prompt) or len(prompt) > spans[place][0]:
            raise ValueError(
                f"the chat template changes what stands before turn {place} of sample {sample.id!r} once it is "
                "answered; give every question a sample of its own"
            )
        answers.append((len(prompt), _ended(text, spans[place][1], tokenizer=tokenizer)))
    return answers


def _ended(text: str, end: int, *, tokenizer: Any) -> int:
    """`end`, or the end of the special token that follows there after nothing but space."""
    names = [re.escape(name) for name in tokenizer.all_special_tokens if name != tokenizer.bos_token]
    found = re.compile(rf"\s*(?:{'|'.join(names)})").match(text, end) if names else None
    return end if found is None else found.end()


def _unsafe(text: str, *, spans: dict[int, Span], tokenizer: Any) -> list[Span]:
    """Words that hold the name of a special token."""
    names = tokenizer.all_special_tokens
    return sorted(span for span in spans.values() if any(name in text[slice(*span)] for name in names))


def _cut(text: str, borders: Sequence[int], *, spans: Sequence[Span], tokenizer: Any) -> list[list[int]]:
    """Tokens of the text up to each border, each piece after the one before.

    A piece is what the text so far adds to the tokens; where a token would reach over the border, it is taken alone.
    """
    pieces: list[list[int]] = []
    done: list[int] = []
    start = 0
    for border in borders:
        whole = _encoded(text, (0, border), spans=spans, tokenizer=tokenizer)
        is_longer = whole[: len(done)] == done
        piece = whole[len(done) :] if is_longer else _encoded(text, (start, border), spans=spans, tokenizer=tokenizer)
        pieces.append(piece)
        done, start = done + piece, border
    return pieces


def _encoded(text: str, span: Span, *, spans: Sequence[Span], tokenizer: Any) -> list[int]:
    """Tokens of a stretch of the text; inside `spans` nothing is a special token."""
    cuts = sorted({*span, *(edge for unsafe in spans for edge in unsafe if span[0] < edge < span[1])})
    ids: list[int] = []
    for start, end in pairwise(cuts):
        number = bisect_right(spans, (start, len(text))) - 1
        is_unsafe = number >= 0 and start < spans[number][1]
        ids += tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=is_unsafe)["input_ids"]
    return ids
