"""Conversations to token ids and labels.

A round is tokenised on its own, and its prompt ("USER: ... ASSISTANT:") apart from its answer, so the border between
them falls exactly between two tokens, and the prompt at inference is token for token what training saw there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from memvp_data.answers import possible_answers, with_answer
from memvp_data.chat import chat_pieces
from memvp_data.samples import Sample
from memvp_data.templates import TEMPLATES as TEMPLATES
from memvp_data.templates import ChatTemplate, Round, Template, find_template, split_system, written_rounds

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
    image_id: str | None
    """Its image, None for text only."""
    weight: float = 1.0
    """Weight of its loss; among several answers of a sample also the weight of being drawn."""
    num_cut_labels: int = field(default=0, compare=False)
    """Label tokens that `max_length` cut off."""

    @property
    def num_labels(self) -> int:
        """Number of tokens that count in the loss."""
        return len(self.labels) - self.labels.count(IGNORED)


def encode_sample(sample: Sample, *, tokenizer: Any, template: str, max_length: int) -> Encoded | None:
    """Tokens and labels of a conversation, cut on the right to `max_length`; None if that cuts off every label.

    Each answer is labelled with its EOS, if the template has one. A last question without answer is left out. Labels
    that were cut off are counted in `num_cut_labels`. Raises `ValueError` naming the sample if it has no answer at all,
    or a shape that the template cannot hold.
    """
    pieces = _answered_pieces(sample, tokenizer=tokenizer, template=template)
    input_ids: list[int] = []
    labels: list[int] = []
    for prompt, answer in pieces:
        input_ids += prompt + answer
        labels += [IGNORED] * len(prompt) + answer
    if labels:
        labels[0] = IGNORED  # a causal model never predicts its first token
    kept = tuple(labels[:max_length])
    num_cut = len(labels) - labels.count(IGNORED) - (len(kept) - kept.count(IGNORED))
    encoded = Encoded(sample.id, tuple(input_ids[:max_length]), kept, _image_id(sample), num_cut_labels=num_cut)
    return encoded if encoded.num_labels else None


def encode_answers(sample: Sample, *, tokenizer: Any, template: str, max_length: int) -> tuple[Encoded, ...]:
    """One `Encoded` for each answer the sample may be given, with its soft score as weight; () if nothing is left.

    A sample without weighted answers has the one it ends with, with weight 1. See `memvp_data.answers` for the others.
    """
    found: list[Encoded] = []
    for answer, weight in possible_answers(sample):
        answered = with_answer(sample, answer)
        encoded = encode_sample(answered, tokenizer=tokenizer, template=template, max_length=max_length)
        if encoded is not None:
            found.append(replace(encoded, weight=weight))
    return tuple(found)


def encode_prompt(sample: Sample, *, tokenizer: Any, template: str, cue: str = "") -> tuple[int, ...]:
    """The tokens after which the model gives the last answer: of the last user turn, whether it is answered or not.

    For an answered sample this is a strict prefix of `encode_sample(...).input_ids` (before any cut). `cue` is how the
    answer is known to begin ("The answer is", in the released evaluation): the model goes on after it.
    """
    layout = find_template(template)
    if isinstance(layout, ChatTemplate):
        split_system(sample)
        answered = sample.turns[-1].role == "assistant"
        asked = replace(sample, turns=sample.turns[:-1]) if answered else sample
        return _joined(chat_pieces(asked, tokenizer=tokenizer, cue=cue))
    *earlier, (last, _) = written_rounds(sample, layout=layout, name=template)
    cued = layout.assistant.partition("{text}")[0] + cue if cue else None
    input_ids = _joined(_pieces([*earlier, (last, cued)], tokenizer=tokenizer, layout=layout))
    return input_ids[:-1] if cue and layout.ends_with_eos else input_ids


def _answered_pieces(sample: Sample, *, tokenizer: Any, template: str) -> list[Piece]:
    """Prompt and answer of every answered round; `ValueError` if there is none."""
    layout = find_template(template)
    _, spoken = split_system(sample)
    if len(spoken) < 2:
        raise ValueError(f"sample {sample.id!r} has no answer to learn; give it an assistant turn")
    if isinstance(layout, Template):
        rounds = [one for one in written_rounds(sample, layout=layout, name=template) if one[1] is not None]
        return list(_pieces(rounds, tokenizer=tokenizer, layout=layout))
    open_ended = spoken[-1].role == "user"
    return chat_pieces(replace(sample, turns=sample.turns[:-1]) if open_ended else sample, tokenizer=tokenizer)


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


def _image_id(sample: Sample) -> str | None:
    if len(sample.image_ids) > 1:
        raise ValueError(f"sample {sample.id!r} has {len(sample.image_ids)} images; one image per sample is supported")
    return sample.image_ids[0] if sample.image_ids else None
