"""ScienceQA problems as (input, target) texts in the formats of its papers, such as "QCM-A" or "QCM-LEA".

Letters before the hyphen order question, context and options; those after it what is to be said: answer, lecture,
explanation. Follows util/base_prompt.py of MemVP and LaVIN (JieShibo/MemVP, commit 5eef19f) and
scripts/convert_sqa_to_llava*.py of LLaVA (haotian-liu/LLaVA, commit c121f04). Departs nowhere.
"""

from collections.abc import Mapping

from memvp_data.text.templates import choices_of

LETTERS = "ABCDE"
_INPUTS = {
    "QCM": "Question: {question}\nContext: {context}\nOptions: {options}\n",
    "CQM": "Context: {context}\nQuestion: {question}\nOptions: {options}\n",
}
_TARGETS = {
    "A": "{answer}",
    "AL": "{answer} BECAUSE: {lecture}",
    "AE": "{answer} BECAUSE: {solution}",
    "ALE": "{answer} BECAUSE: {lecture} {solution}",
    "AEL": "{answer} BECAUSE: {solution} {lecture}",
    "LA": "{lecture} {answer}",
    "EA": "{solution} {answer}",
    "LEA": "{lecture} {solution} {answer}",
    "ELA": "{solution} {lecture} {answer}",
}


def released(fields: Mapping[str, str], *, kind: str = "QCM-A") -> tuple[str, str]:
    """As MemVP and LaVIN write it; the sequence is input + target, without a space between. `fields` of the reader."""
    asked, told = _filled(fields, kind=kind, lecture=fields.get("lecture", "").replace("\n", "\\n"))
    return _tidy(f"{asked}Response:"), _tidy(told)


def llava(fields: Mapping[str, str], *, kind: str = "QCM-LEA", is_test: bool = False) -> tuple[str, str]:
    """As LLaVA writes the human's and the assistant's turn, without the image placeholder and without caption."""
    fields = {name: text for name, text in fields.items() if name != "caption"}
    asked, told = _filled(fields, kind=kind, lecture=fields.get("lecture", ""))
    target = _tidy("Answer:" if is_test else f"Answer: {told}")
    return _tidy(asked).removeprefix("Question: "), target.removeprefix("Answer: ")


def _filled(fields: Mapping[str, str], *, kind: str, lecture: str) -> tuple[str, str]:
    asked, _, told = kind.partition("-")
    if asked not in _INPUTS or told not in _TARGETS:
        known = f"{' or '.join(_INPUTS)}, a hyphen, and one of {', '.join(_TARGETS)}"
        raise ValueError(f"unknown ScienceQA format {kind!r}; known: {known}")
    answer = f"The answer is {LETTERS[int(fields['answer_index'])]}."
    parts = {"answer": answer, "lecture": lecture, "solution": fields.get("solution", "")}
    return _INPUTS[asked].format(**choices_of(fields)), _TARGETS[told].format(**parts)


def _tidy(text: str) -> str:
    """Each pair of spaces becomes one, once, as in the released code."""
    return text.replace("  ", " ").strip()
