"""Fit a long prompt into the tokens allowed by leaving out words where it hurts least: at the end of one field.

Video questions begin with all that is said in the clip. Cut on the right, a long clip would lose question and choices.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from memvp_data.samples import Sample
from memvp_data.text.templates import Template, find_template

Written = TypeVar("Written")


def fitted(
    sample: Sample,
    encode: Callable[[Sample], Written],
    *,
    size: Callable[[Written], int],
    template: str,
    max_length: int | None,
) -> tuple[Written, int]:
    """What `encode` makes of the sample, and how much shorter it is for the words that were left out.

    As many words of the field that the template `shortens` are kept as let the result fit. It may still be too long:
    because there is no such field, or too much beside it.
    """
    whole, layout = encode(sample), find_template(template)
    name = layout.shortens if isinstance(layout, Template) else ""
    words = sample.fields.get(name, "").split()
    if max_length is None or size(whole) <= max_length or not words:
        return whole, 0

    def with_words(count: int) -> Written:
        return encode(replace(sample, fields={**sample.fields, name: " ".join(words[:count])}))

    num_fitting = bisect_right(
        range(len(words)), False, key=lambda count: size(with_words(count)) > max_length
    )  # of the counts from 0 on
    shorter = with_words(max(0, num_fitting - 1))
    return shorter, max(0, size(whole) - size(shorter))
