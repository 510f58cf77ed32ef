"""A conversation as two texts, for encoder-decoder models: what is asked, and the last answer.

Earlier rounds stand before the last question. Both texts are tokenised by themselves and begin and end as the tokenizer
begins and ends any text.
"""

from collections.abc import Sequence
from typing import Any

from memvp_data.samples import Sample
from memvp_data.text.templates import ChatTemplate, find_template, written_rounds


def text_pair(sample: Sample, *, template: str) -> tuple[str, str | None]:
    """What the encoder reads and what the decoder is to say, None for an open question.

    Raises `ValueError` for the template of a tokenizer's own, whose answers are parts of a longer text.
    """
    layout = find_template(template)
    if isinstance(layout, ChatTemplate):
        raise ValueError(f"template {template!r} is for causal models; take one of words, such as 'paper_table6'")
    *earlier, (asked, answer) = written_rounds(sample, layout=layout, name=template)
    before = [text for prompt, told in earlier for text in (prompt, told or "")]
    said = (text.strip() for text in (*before, asked))
    return " ".join(text for text in said if text), None if answer is None else answer.strip()


def pair_pieces(sample: Sample, *, tokenizer: Any, template: str) -> tuple[list[int], list[int]]:
    """The same as tokens; [] for an answer that is not there. Raises `ValueError` for a text without any token."""
    asked, told = text_pair(sample, template=template)
    ids = tokenizer([asked, told or ""], split_special_tokens=True)["input_ids"]
    if not all(ids):
        raise ValueError(
            f"sample {sample.id!r} has an empty text, to which the {type(tokenizer).__name__} adds no special token; "
            "give it words, or take the tokenizer that belongs to the encoder-decoder"
        )
    return list(ids[0]), [] if told is None else list(ids[1])


def cut_tokens(ids: Sequence[int], *, tokenizer: Any, max_length: int) -> list[int]:
    """The first tokens, at most `max_length`, with the special ones that end the text."""
    closers = {tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)}
    num_closing = 0
    while num_closing < min(len(ids), max_length) and ids[-1 - num_closing] in closers:
        num_closing += 1
    kept = max(0, max_length - num_closing)
    return list(ids) if len(ids) <= max_length else [*ids[:kept], *ids[len(ids) - num_closing :]]
