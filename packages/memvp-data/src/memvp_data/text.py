"""Conversations to token ids and labels.

A round is tokenised on its own, and its prompt ("USER: ... ASSISTANT:") apart from its answer, so the border between
them falls exactly between two tokens, and the prompt at inference is token for token what training saw there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from memvp_data.samples import Sample

IGNORED = -100
_PLACE = "{text}"


@dataclass(frozen=True)
class Template:
    """How turns become text. BOS comes first if the tokenizer has one."""

    system: str
    """Before the first round, unless the sample has a system turn of its own; "" for none."""
    user: str
    """The prompt of a round, with the user's words at {text}; "" throws them away and allows one round only."""
    assistant: str
    """The answer, with its words at {text}."""
    ends_with_eos: bool
    """Whether the tokenizer's EOS follows each answer and is learnt."""
    between: str = ""
    """Put before every round but the first."""


TEMPLATES: dict[str, Template] = {
    # LLaVA's stage 1: the caption and a line break, no question and no EOS.
    "plain": Template(system="", user="", assistant="{text}\n", ends_with_eos=False),
    # LLaVA-1.5's "v1": no space between </s> and the next USER.
    "vicuna_v1": Template(
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        user="USER: {text} ASSISTANT:",
        assistant=" {text}",
        ends_with_eos=True,
    ),
    "toyworld": Template(system="", user="USER {text} ASSISTANT", assistant=" {text}", ends_with_eos=True, between=" "),
}


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

    @property
    def num_labels(self) -> int:
        """Number of tokens that count in the loss."""
        return len(self.labels) - self.labels.count(IGNORED)


def encode_sample(sample: Sample, *, tokenizer: Any, template: str, max_length: int) -> Encoded | None:
    """Tokens and labels of a conversation, cut on the right to `max_length`; None if that cuts off every label.

    Each answer is labelled with its EOS, if the template has one. A last question without answer is left out.
    Raises `ValueError` naming the sample if it has no answer at all, or a shape that the template cannot hold.
    """
    rounds = [answered for answered in _rounds(sample, template=template) if answered[1] is not None]
    if not rounds:
        raise ValueError(f"sample {sample.id!r} has no answer to learn; give it an assistant turn")
    input_ids, labels = _opening(tokenizer), [IGNORED] * len(_opening(tokenizer))
    for prompt, answer in _tokens(rounds, tokenizer=tokenizer, template=template):
        input_ids += prompt + answer
        labels += [IGNORED] * len(prompt) + answer
    if labels:
        labels[0] = IGNORED  # a causal model never predicts its first token
    input_ids, labels = input_ids[:max_length], labels[:max_length]
    encoded = Encoded(sample.id, tuple(input_ids), tuple(labels), _image_id(sample))
    return encoded if encoded.num_labels else None


def encode_prompt(sample: Sample, *, tokenizer: Any, template: str) -> tuple[int, ...]:
    """The tokens after which the model gives the last answer: of the last user turn, whether it is answered or not.

    For an answered sample this is a strict prefix of `encode_sample(...).input_ids` (before any cut).
    """
    *earlier, (last, _) = _rounds(sample, template=template)
    input_ids = _opening(tokenizer)
    for prompt, answer in _tokens([*earlier, (last, None)], tokenizer=tokenizer, template=template):
        input_ids += prompt + answer
    return tuple(input_ids)


def find_template(name: str) -> Template:
    """The template of that name; `ValueError` listing the known ones if there is none."""
    if name not in TEMPLATES:
        raise ValueError(f"unknown template {name!r}; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def _rounds(sample: Sample, *, template: str) -> list[tuple[str, str | None]]:
    """(prompt text, answer text or None) of every round."""
    layout, turns = find_template(template), sample.turns
    has_system = bool(turns) and turns[0].role == "system"
    spoken = turns[1:] if has_system else turns
    if not spoken or any(turn.role != ("user", "assistant")[place % 2] for place, turn in enumerate(spoken)):
        roles = [turn.role for turn in turns]
        raise ValueError(f"sample {sample.id!r} must be [system,] user, assistant, user, ... turns, got {roles}")
    if not layout.user:
        if len(spoken) > 2:
            raise ValueError(
                f"sample {sample.id!r} has {len(spoken)} turns, template {template!r} holds a caption only"
            )
        answers = [turn.text for turn in spoken[1:]]
        return [("", _filled(layout.assistant, answers[0]) if answers else None)]
    system = turns[0].text if has_system else layout.system
    rounds = []
    for place in range(0, len(spoken), 2):
        before = layout.between if place else system + " " * bool(system)
        answer = _filled(layout.assistant, spoken[place + 1].text) if place + 1 < len(spoken) else None
        rounds.append((before + _filled(layout.user, spoken[place].text), answer))
    return rounds


def _tokens(
    rounds: list[tuple[str, str | None]], *, tokenizer: Any, template: str
) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids with EOS) of every round; an unanswered round has no answer ids."""
    texts = [text for prompt, answer in rounds for text in (prompt, prompt + (answer or ""), answer or "")]
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    end = [tokenizer.eos_token_id] if find_template(template).ends_with_eos else []
    for place, (_, answer) in enumerate(rounds):
        prompt, joined, alone = ids[3 * place : 3 * place + 3]
        # Tokenised together, " red" keeps its usual token; where that would move the border, the answer is taken alone.
        together = joined[: len(prompt)] == prompt
        yield list(prompt), [] if answer is None else list(joined[len(prompt) :] if together else alone) + end


def _opening(tokenizer: Any) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _filled(pattern: str, text: str) -> str:
    return pattern.replace(_PLACE, text)


def _image_id(sample: Sample) -> str | None:
    if len(sample.image_ids) > 1:
        raise ValueError(f"sample {sample.id!r} has {len(sample.image_ids)} images; one image per sample is supported")
    return sample.image_ids[0] if sample.image_ids else None
