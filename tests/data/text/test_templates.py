"""Each template writes the exact string of the code or page it comes from."""

import json
from pathlib import Path

import pytest

from memvp_data.datasets.scienceqa import read_scienceqa
from memvp_data.datasets.table import DATASETS
from memvp_data.samples import Sample, Turn
from memvp_data.text import scienceqa
from memvp_data.text.templates import DEFAULT_TEMPLATES, TEMPLATES, Template, written_rounds

# Inputs and outputs of build_prompt in the released code (JieShibo/MemVP, commit 5eef19f, util/base_prompt.py).
PLANET = {
    "question": "Which planet is  larger?",
    "choices": json.dumps(["Mars", "Jupiter", "Venus"]),
    "hint": "Look at the table.",
}
RELEASED = [
    (
        {**PLANET, "caption": "A picture of planets."},
        "Question: Which planet is larger?\nContext: Look at the table. A picture of planets.\n"
        "Options: (A) Mars (B) Jupiter (C) Venus\nResponse:",
    ),
    (
        PLANET,
        "Question: Which planet is larger?\nContext: Look at the table.\n"
        "Options: (A) Mars (B) Jupiter (C) Venus\nResponse:",
    ),
    (
        {"question": "Is this sentence complete?", "choices": '["yes", "no"]', "hint": ""},
        "Question: Is this sentence complete?\nContext: N/A\nOptions: (A) yes (B) no\nResponse:",
    ),
    (
        {"question": "Pick one.", "choices": "a"},
        "Question: Pick one.\nContext: N/A\nOptions: (A) a\nResponse:",
    ),
    (
        {"question": "What {options}   is it?", "choices": "{context}\nb", "hint": "", "caption": " c "},
        "Question: What {options}  is it?\nContext: c\nOptions: (A) {context} (B) b\nResponse:",
    ),
]


def rounds(name: str, *texts: str, **fields: str) -> list[tuple[str, str | None]]:
    turns = [Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
    layout = TEMPLATES[name]
    assert isinstance(layout, Template)
    return written_rounds(Sample("s", (), tuple(turns), fields=fields), layout=layout, name=name)


@pytest.mark.parametrize(("fields", "expected"), RELEASED)
def test_released_is_the_released_codes_string(fields: dict[str, str], expected: str) -> None:
    ((prompt, answer),) = rounds("released", "not used", "The answer is B.", **fields)
    assert prompt == expected
    assert prompt + (answer or "") == f"{expected}The answer is B."


@pytest.mark.parametrize(("fields", "expected"), RELEASED[:2])
def test_table_6_has_a_space_before_the_answer(fields: dict[str, str], expected: str) -> None:
    assert rounds("paper_table6", "not used", "The answer is B.", **fields) == [(expected, " The answer is B.")]


@pytest.mark.parametrize(("captions", "number"), [(True, 0), (False, 1)])
def test_released_fits_what_the_reader_of_scienceqa_gives(tmp_path: Path, captions: bool, number: int) -> None:
    problem = {**PLANET, "choices": json.loads(PLANET["choices"]), "answer": 1, "image": "image.png", "split": "train"}
    about = {"subject": "natural science", "grade": "grade2", "lecture": "", "solution": ""}
    (tmp_path / "problems.json").write_text(json.dumps({"7": {**problem, **about}}))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["7"]}))
    (tmp_path / "captions.json").write_text(json.dumps({"captions": {"7": "A picture of planets."}}))
    (sample,) = read_scienceqa(tmp_path, split="train", check_images=False, captions=captions)
    layout = TEMPLATES["released"]
    assert isinstance(layout, Template)
    assert written_rounds(sample, layout=layout, name="released") == [(RELEASED[number][1], "The answer is B.")]


def test_table_6_leaves_questions_bare_and_asks_for_captions() -> None:
    assert rounds("paper_table6", "What is on the rug?", "shoes") == [("What is on the rug?", " shoes")]
    asked = "Provide a one-sentence caption for the provided image."
    assert rounds("paper_table6", "", "a red bus") == [(asked, " a red bus")]


def test_a_question_without_fields_stands_as_it_is() -> None:
    assert rounds("released", "Context:  x\nResponse: ", "B") == [("Context: x\nResponse:", "B")]
    two = rounds("released", "a", "b", "c", "d", question="q", choices="x")
    assert two == [("a", "b"), ("c", "d")]


def test_every_dataset_has_a_default_template() -> None:
    assert set(DEFAULT_TEMPLATES) == set(DATASETS)
    assert set(DEFAULT_TEMPLATES.values()) < set(TEMPLATES)


def test_templates_hold_their_text_once() -> None:
    for name, template in TEMPLATES.items():
        if isinstance(template, Template):
            assert template.assistant.count("{text}") == 1, name
            assert template.user.count("{text}") == (name != "plain"), name


@pytest.mark.parametrize("lecture", ["Planets  differ\nin size.", "", "{text}"])
def test_released_ale_is_what_the_released_code_writes_for_qcm_ale(lecture: str) -> None:
    fields = {**PLANET, "answer_index": "1", "lecture": lecture, "solution": "Jupiter is  the largest."}
    expected = scienceqa.released(fields, kind="QCM-ALE")
    assert rounds("released_ale", PLANET["question"], "The answer is B.", **fields) == [expected]


def test_video_questions_show_subtitles_times_and_choices() -> None:
    """The string of VL-PET (HenryHZY/VL-PET), choices with one dot each."""
    fields = {"question": "What is held?", "choices": '["A cup.", " a pen "]', "ts": "1.2-8.4", "subtitles": "Ann: Hi."}
    expected = "[Subs] Ann: Hi. [Q] What is held? [TS] (1.2-8.4) [Choices] a0: A cup. a1: a pen."
    assert rounds("video_qa", "What is held?", "a1", **fields) == [(expected, " a1")]


@pytest.mark.parametrize("hint", ["", "Look closely."])
def test_vicuna_letters_the_options_as_llava_asks_mmbench(hint: str) -> None:
    fields = {"question": "What is it?", "choices": '["cat", "dog"]', "hint": hint}
    asked = (f"{hint}\n" if hint else "") + "What is it?\nA. cat\nB. dog\n"
    asked += "Answer with the option's letter from the given choices directly."
    ((prompt, _),) = rounds("vicuna_v1", "What is it?", "A", **fields)
    assert prompt.endswith(f"questions. USER: {asked} ASSISTANT:")


def test_prefixes_of_vl_t5() -> None:
    assert rounds("vl_t5_vqa", "What is it?", "dog") == [("vqa: What is it?", " dog")]
    assert rounds("vl_t5_gqa", "What is it?", "dog") == [("gpa: What is it?", " dog")]
    assert rounds("vl_t5_caption", "", "a dog") == [("caption:", " a dog")]
