"""How a conversation becomes text: one row of a table per template, named in recipes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from memvp_data.samples import Sample, Turn

_TEXT = "{text}"
_LETTERS = "ABCDEFGHIJ"


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
    choices: str = ""
    """Used instead of `user` when the sample has the fields of a multiple choice: {question}, {context}, {options}."""
    caption: str = ""
    """Used instead of `user` when the user says nothing, as in captioning; "" keeps `user`."""
    tidies_spaces: bool = False
    """Whether each pair of spaces becomes one, once, and the ends are stripped, as in the released code."""


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template that the tokenizer brings along decides the text."""


# Input of ScienceQA in the released code (JieShibo/MemVP, commit 5eef19f, util/base_prompt.py), format QCM.
_SCIENCEQA = "Question: {question}\nContext: {context}\nOptions: {options}\nResponse:"

TEMPLATES: dict[str, Template | ChatTemplate] = {
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
    # The released code joins prompt and answer without a space: "Response:The answer is B."
    "released": Template(
        system="", user="{text}", assistant="{text}", ends_with_eos=True, choices=_SCIENCEQA, tidies_spaces=True
    ),
    # Table 6 of the paper has the space: "Response: The answer is B." (it prints "Reponse"). Questions stay bare.
    "paper_table6": Template(
        system="",
        user="{text}",
        assistant=" {text}",
        ends_with_eos=True,
        choices=_SCIENCEQA,
        caption="Provide a one-sentence caption for the provided image.",
        tidies_spaces=True,
    ),
    "chat_template": ChatTemplate(),
}

# The template that each dataset's own papers put its samples in, by the dataset's name in datasets/table.py.
DEFAULT_TEMPLATES: dict[str, str] = {
    **dict.fromkeys(("scienceqa",), "released"),
    **dict.fromkeys(("vqav2", "gqa", "vqav2_vl_t5", "gqa_vl_t5", "coco", "tvqa", "how2qa"), "paper_table6"),
    **dict.fromkeys(("lcs_558k",), "plain"),
    **dict.fromkeys(("llava_665k", "sqa_i", "mme", "mmbench", "pope"), "vicuna_v1"),
}

Round = tuple[str, str | None]
"""Prompt text, and answer text or None."""


def find_template(name: str) -> Template | ChatTemplate:
    """The template of that name; `ValueError` listing the known ones if there is none."""
    if name not in TEMPLATES:
        raise ValueError(f"unknown template {name!r}; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def split_system(sample: Sample) -> tuple[Turn | None, tuple[Turn, ...]]:
    """The system turn, if any, and the turns of user and assistant; `ValueError` unless these alternate."""
    turns = sample.turns
    has_system = bool(turns) and turns[0].role == "system"
    spoken = turns[1:] if has_system else turns
    if not spoken or any(turn.role != ("user", "assistant")[place % 2] for place, turn in enumerate(spoken)):
        roles = [turn.role for turn in turns]
        raise ValueError(f"sample {sample.id!r} must be [system,] user, assistant, user, ... turns, got {roles}")
    return (turns[0] if has_system else None), spoken


def written_rounds(sample: Sample, *, layout: Template, name: str) -> list[Round]:
    """The rounds of a sample as text, by the template `layout` called `name`."""
    system_turn, spoken = split_system(sample)
    if not layout.user:
        return _captioned(sample, spoken=spoken, layout=layout, name=name)
    system = layout.system if system_turn is None else system_turn.text
    rounds: list[Round] = []
    for place in range(0, len(spoken), 2):
        before = layout.between if place else system + " " * bool(system)
        answer = spoken[place + 1].text if place + 1 < len(spoken) else None
        question = _question(sample, text=spoken[place].text, layout=layout, is_only=len(spoken) <= 2)
        rounds.append((before + question, None if answer is None else _filled(layout.assistant, answer)))
    return rounds


def choices_of(fields: Mapping[str, str]) -> dict[str, str]:
    """{question}, {context} and {options} of a multiple choice, as the released code writes them.

    `fields` holds "question" and "choices" (a JSON list, or one choice a line), and perhaps "hint" and "caption". A
    caption is shown when it is there: leave it out for prompts without captions.
    """
    text = fields["choices"]
    choices = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
    context = f"{fields.get('hint', '')} {fields.get('caption', '')}".strip()
    return {"question": fields["question"], "context": context or "N/A", "options": options}


def _question(sample: Sample, *, text: str, layout: Template, is_only: bool) -> str:
    if layout.choices and is_only and {"question", "choices"} <= set(sample.fields):
        parts = choices_of(sample.fields)
        question = re.sub(r"\{(\w+)\}", lambda place: parts[place[1]], layout.choices)
    else:
        question = _filled(layout.user, text) if text or not layout.caption else layout.caption
    return question.replace("  ", " ").strip() if layout.tidies_spaces else question


def _captioned(sample: Sample, *, spoken: tuple[Turn, ...], layout: Template, name: str) -> list[Round]:
    if len(spoken) > 2:
        raise ValueError(f"sample {sample.id!r} has {len(spoken)} turns, template {name!r} holds a caption only")
    return [("", _filled(layout.assistant, spoken[1].text) if len(spoken) == 2 else None)]


def _filled(pattern: str, text: str) -> str:
    return pattern.replace(_TEXT, text)
