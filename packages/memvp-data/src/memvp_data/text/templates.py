"""How a conversation becomes text: one row of a table per template, named in recipes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from memvp_data.samples import Sample, Turn

_PLACE = re.compile(r"\{(\w+)\}")
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
    """Used instead of `user` when the sample has the fields of a multiple choice, see `choices_of`, and all named."""
    explained: str = ""
    """Used instead of `assistant` when the sample has the fields named: {text}, {lecture}, {solution}."""
    caption: str = ""
    """Used instead of `user` when the user says nothing, as in captioning; "" keeps `user`."""
    tidies_spaces: bool = False
    """Whether each pair of spaces becomes one, once, and the ends are stripped, as in the released code."""
    shortens: str = ""
    """Field of which words may be left out, from its end, where the whole would be too long; "" for none."""


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template that the tokenizer brings along decides the text."""


# Input of ScienceQA in the released code (JieShibo/MemVP, commit 5eef19f, util/base_prompt.py), format QCM.
_SCIENCEQA = "Question: {question}\nContext: {context}\nOptions: {options}\nResponse:"
# What LLaVA-1.5 asks MMBench (haotian-liu/LLaVA, llava/eval/model_vqa_mmbench.py with --single-pred-prompt).
_LETTERED = "{hint_line}{question}\n{lettered}\nAnswer with the option's letter from the given choices directly."
# VL-PET's input for TVQA and How2QA (HenryHZY/VL-PET, single-task: without a prompt for the task at its end).
_VIDEO = "[Subs] {subtitles} [Q] {question} [TS] ({ts}) [Choices] {numbered}"

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
        choices=f"USER: {_LETTERED} ASSISTANT:",
    ),
    "toyworld": Template(system="", user="USER {text} ASSISTANT", assistant=" {text}", ends_with_eos=True, between=" "),
    # The released code joins prompt and answer without a space: "Response:The answer is B."
    "released": Template(
        system="", user="{text}", assistant="{text}", ends_with_eos=True, choices=_SCIENCEQA, tidies_spaces=True
    ),
    # The same with the longer target that LaVIN's paper trains on: answer, lecture and solution (QCM-ALE).
    "released_ale": Template(
        system="",
        user="{text}",
        assistant="{text}",
        ends_with_eos=True,
        choices=_SCIENCEQA,
        explained="{text} BECAUSE: {lecture} {solution}",
        tidies_spaces=True,
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
    # The prefixes of VL-T5's family; "gpa" is how VL-Adapter's and VL-PET's code has it.
    "vl_t5_vqa": Template(system="", user="vqa: {text}", assistant=" {text}", ends_with_eos=True, tidies_spaces=True),
    "vl_t5_gqa": Template(system="", user="gpa: {text}", assistant=" {text}", ends_with_eos=True, tidies_spaces=True),
    "vl_t5_caption": Template(
        system="", user="caption: {text}", assistant=" {text}", ends_with_eos=True, tidies_spaces=True
    ),
    "video_qa": Template(
        system="", user="{text}", assistant=" {text}", ends_with_eos=True, choices=_VIDEO, shortens="subtitles"
    ),
    "chat_template": ChatTemplate(),
}

# The template that each dataset's own papers put its samples in, by the dataset's name in datasets/table.py.
DEFAULT_TEMPLATES: dict[str, str] = {
    **dict.fromkeys(("scienceqa",), "released"),
    **dict.fromkeys(("vqav2", "gqa", "vqav2_vl_t5", "gqa_vl_t5", "coco"), "paper_table6"),
    **dict.fromkeys(("tvqa", "how2qa"), "video_qa"),
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
        is_only = len(spoken) <= 2
        question = _question(sample, text=spoken[place].text, layout=layout, is_only=is_only)
        told = None if answer is None else _answer(sample, text=answer, layout=layout, is_only=is_only)
        rounds.append((before + question, told))
    return rounds


def choices_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The parts of a multiple choice that a template may name, beside the fields themselves.

    {question}, {context} and {options} are those of the released code; {lettered} has an "A. choice" line for each,
    {numbered} "a0: choice. a1: ...", and {hint_line} the hint with a line break, or nothing. `fields` holds "question"
    and "choices" (a JSON list, or one choice a line), and perhaps "hint" and "caption". A caption is shown when it is
    there: leave it out for prompts without captions.
    """
    text, hint = fields["choices"], fields.get("hint", "")
    choices = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    context = f"{hint} {fields.get('caption', '')}".strip()
    return {
        "question": fields["question"],
        "context": context or "N/A",
        "options": " ".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)),
        "lettered": "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)),
        "numbered": " ".join(f"a{number}: {choice.strip(' .')}." for number, choice in enumerate(choices)),
        "hint_line": f"{hint}\n" if hint else "",
    }


def _question(sample: Sample, *, text: str, layout: Template, is_only: bool) -> str:
    asked = layout.user if text or not layout.caption else layout.caption
    parts = {"text": text}
    if is_only and {"question", "choices"} <= set(sample.fields):
        chosen = {**sample.fields, **choices_of(sample.fields)}
        if layout.choices and _names(layout.choices) <= set(chosen):
            asked, parts = layout.choices, chosen
    return _tidied(_filled(asked, parts), layout=layout)


def _answer(sample: Sample, *, text: str, layout: Template, is_only: bool) -> str:
    # The released code writes the line breaks of a lecture, and only those, as two characters.
    lecture = sample.fields.get("lecture", "").replace("\n", "\\n")
    parts = {**sample.fields, "lecture": lecture, "text": text}
    if layout.explained and is_only and _names(layout.explained) - {"text"} <= set(sample.fields):
        return _tidied(_filled(layout.explained, parts), layout=layout)
    return _filled(layout.assistant, {"text": text})


def _names(pattern: str) -> set[str]:
    return set(_PLACE.findall(pattern))


def _tidied(text: str, *, layout: Template) -> str:
    return text.replace("  ", " ").strip() if layout.tidies_spaces else text


def _captioned(sample: Sample, *, spoken: tuple[Turn, ...], layout: Template, name: str) -> list[Round]:
    if len(spoken) > 2:
        raise ValueError(f"sample {sample.id!r} has {len(spoken)} turns, template {name!r} holds a caption only")
    return [("", _filled(layout.assistant, {"text": spoken[1].text}) if len(spoken) == 2 else None)]


def _filled(pattern: str, parts: Mapping[str, str]) -> str:
    """Every {name} replaced, once: braces in what is filled in are text."""
    return _PLACE.sub(lambda place: parts[place[1]], pattern)
