"""Conversations to token ids and labels.

A round is tokenised on its own, and its prompt ("USER: ... ASSISTANT:") apart from its answer, so the border between
them falls exactly between two tokens, and the prompt at inference is token for token what training saw there. For an
encoder-decoder both are texts of their own (pairs.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from memvp_data.answers import possible_answers, with_answer
from memvp_data.samples import Sample
from memvp_data.text.chat import chat_pieces
from memvp_data.text.pairs import cut_tokens, pair_pieces
from memvp_data.text.templates import TEMPLATES as TEMPLATES
from memvp_data.text.templates import ChatTemplate, Round, Template, find_template, split_system, written_rounds
from memvp_data.text.truncation import fitted

IGNORED = -100
Piece = tuple[list[int], list[int]]
"""Tokens of a prompt and of its answer, which are learnt."""


@dataclass(frozen=True)
class Encoded:
    """A training sample as tokens."""

    id: str
    """Sample id."""
    input_ids: tuple[int, ...]
    """Tokens, BOS first if there is one."""
    labels: tuple[int, ...]
    """As long as `input_ids`; the token itself where it is learnt, else -100. Unshifted, the first is always -100."""
    image_ids: tuple[str, ...]
    """Its images, which stand side by side in the memory; () for text only."""
    weight: float = 1.0
    """Weight of its loss; among several answers of a sample also the weight of being drawn."""
    num_cut_labels: int = field(default=0, compare=False)
    """Label tokens that `max_length` cut off."""
    num_cut_prompt: int = field(default=0, compare=False)
    """Tokens that were left out of the prompt, by shortening a field or, for an encoder-decoder, by a cut."""

    @property
    def num_labels(self) -> int:
        """Number of tokens that count in the loss."""
        return len(self.labels) - self.labels.count(IGNORED)


def encode_sample(
    sample: Sample, *, tokenizer: Any, template: str, max_length: int, encoder_decoder: bool = False
) -> Encoded | None:
    """Tokens and labels of a conversation, cut on the right to `max_length`; None if that cuts off every label.

    Each answer is labelled with its EOS, if the template has one. A last question without answer is left out. Labels
    that were cut off are counted in `num_cut_labels`. Where the template names a field that may be shortened, such as
    subtitles, words at its end go first.

    With `encoder_decoder` only the last answer is labelled; prompt and answer begin and end as the tokenizer begins and
    ends a text, and each is cut to `max_length`. Raises `ValueError` naming the sample if it has no answer at all, or a
    shape that the template cannot hold.
    """
    encode = _encoded_pair if encoder_decoder else _encoded_text
    encoded = encode(_answered(sample), tokenizer=tokenizer, template=template, max_length=max_length)
    return encoded if encoded.num_labels else None


def encode_answers(
    sample: Sample, *, tokenizer: Any, template: str, max_length: int, encoder_decoder: bool = False
) -> tuple[Encoded, ...]:
    """One `Encoded` for each answer the sample may be given, with its soft score as weight; () if nothing is left.

    A sample without weighted answers has the one it ends with, with weight 1. See `memvp_data.answers` for the others.
    """
    settings = {"template": template, "max_length": max_length, "encoder_decoder": encoder_decoder}
    found: list[Encoded] = []
    for answer, weight in possible_answers(sample):
        encoded = encode_sample(with_answer(sample, answer), tokenizer=tokenizer, **settings)
        if encoded is not None:
            found.append(replace(encoded, weight=weight))
    return tuple(found)


def encode_prompt(
    sample: Sample,
    *,
    tokenizer: Any,
    template: str,
    cue: str = "",
    encoder_decoder: bool = False,
    max_length: int | None = None,
) -> tuple[int, ...]:
    """The tokens after which the model gives the last answer: of the last user turn, whether it is answered or not.

    For an answered sample this is a strict prefix of `encode_sample(...).input_ids` (before any cut). `cue` is how the
    answer is known to begin ("The answer is", in the released evaluation): the model goes on after it. Above
    `max_length` a field is shortened if the template names one, and nothing else.

    With `encoder_decoder` they are what the encoder reads, cut to `max_length` as in training; there is no cue.
    """
    settings = {"template": template, "max_length": max_length}
    if not encoder_decoder:
        encode = partial(_open_pieces, tokenizer=tokenizer, template=template, cue=cue)
        return _joined(fitted(sample, encode, size=_num_tokens, **settings)[0])
    if cue:
        raise ValueError(f"cue {cue!r} cannot stand before the answer of an encoder-decoder; leave it out")
    (prompt, _), _ = _fitted_pair(sample, tokenizer=tokenizer, **settings)
    return tuple(prompt if max_length is None else cut_tokens(prompt, tokenizer=tokenizer, max_length=max_length))


def _encoded_text(sample: Sample, *, tokenizer: Any, template: str, max_length: int) -> Encoded:
    """For a causal model: the rounds one after the other."""
    encode = partial(_answered_pieces, tokenizer=tokenizer, template=template)
    pieces, num_taken = fitted(sample, encode, size=_num_tokens, template=template, max_length=max_length)
    labels = [label for prompt, answer in pieces for label in [IGNORED] * len(prompt) + answer]
    if labels:
        labels[0] = IGNORED  # a causal model never predicts its first token
    kept = tuple(labels[:max_length])
    num_cut = len(labels) - labels.count(IGNORED) - (len(kept) - kept.count(IGNORED))
    counts = {"num_cut_labels": num_cut, "num_cut_prompt": num_taken}
    return Encoded(sample.id, _joined(pieces)[:max_length], kept, sample.image_ids, **counts)


def _encoded_pair(sample: Sample, *, tokenizer: Any, template: str, max_length: int) -> Encoded:
    """For an encoder-decoder: what the encoder reads and, labelled, what the decoder is to say."""
    (prompt, answer), num_taken = _fitted_pair(sample, tokenizer=tokenizer, template=template, max_length=max_length)
    asked, told = (cut_tokens(ids, tokenizer=tokenizer, max_length=max_length) for ids in (prompt, answer))
    counts = {
        "num_cut_labels": len(answer) - len(told),
        "num_cut_prompt": num_taken + len(prompt) - len(asked),
    }
    return Encoded(sample.id, (*asked, *told), (*[IGNORED] * len(asked), *told), sample.image_ids, **counts)


def _fitted_pair(sample: Sample, *, tokenizer: Any, template: str, max_length: int | None) -> tuple[Piece, int]:
    encode = partial(pair_pieces, tokenizer=tokenizer, template=template)
    return fitted(sample, encode, size=lambda pair: len(pair[0]), template=template, max_length=max_length)


def _answered(sample: Sample) -> Sample:
    """The sample without a last question that has no answer; `ValueError` if none has one."""
    _, spoken = split_system(sample)
    if len(spoken) < 2:
        raise ValueError(f"sample {sample.id!r} has no answer to learn; give it an assistant turn")
    return replace(sample, turns=sample.turns[:-1]) if spoken[-1].role == "user" else sample


def _answered_pieces(sample: Sample, *, tokenizer: Any, template: str) -> list[Piece]:
    """Prompt and answer of every round."""
    layout = find_template(template)
    if isinstance(layout, ChatTemplate):
        return chat_pieces(sample, tokenizer=tokenizer)
    return list(_pieces(written_rounds(sample, layout=layout, name=template), tokenizer=tokenizer, layout=layout))


def _open_pieces(sample: Sample, *, tokenizer: Any, template: str, cue: str) -> list[Piece]:
    """The same up to the last answer, of which there is no more than the cue."""
    layout = find_template(template)
    if isinstance(layout, ChatTemplate):
        split_system(sample)
        answered = sample.turns[-1].role == "assistant"
        asked = replace(sample, turns=sample.turns[:-1]) if answered else sample
        return chat_pieces(asked, tokenizer=tokenizer, cue=cue)
    *earlier, (last, _) = written_rounds(sample, layout=layout, name=template)
    cued = layout.assistant.partition("{text}")[0] + cue if cue else None
    *pieces, (prompt, begun) = _pieces([*earlier, (last, cued)], tokenizer=tokenizer, layout=layout)
    return [*pieces, (prompt, begun[:-1] if cue and layout.ends_with_eos else begun)]


def _pieces(rounds: list[Round], *, tokenizer: Any, layout: Template) -> Iterator[Piece]:
    """Prompt ids (BOS first) and answer ids with EOS of every round; an unanswered round has no answer ids."""
    texts = [text for prompt, answer in rounds for text in (prompt, prompt + (answer or ""), answer or "")]
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    end = [tokenizer.eos_token_id] if layout.ends_with_eos else []
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for place, (_, answer) in enumerate(rounds):
        prompt, joined, alone = ids[3 * place : 3 * place + 3]
        # Tokenised together, " red" keeps its usual token; where that would move the border, the answer is taken alone.
        together = joined[: len(prompt)] == prompt
        learnt = [] if answer is None else list(joined[len(prompt) :] if together else alone) + end
        yield (opening if place == 0 else []) + list(prompt), learnt


def _joined(pieces: Iterable[Piece]) -> tuple[int, ...]:
    return tuple(token for prompt, answer in pieces for token in (*prompt, *answer))


def _num_tokens(pieces: Iterable[Piece]) -> int:
    return sum(len(prompt) + len(answer) for prompt, answer in pieces)
