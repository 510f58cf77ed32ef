"""ScienceQA accuracy with the eight groups of its papers: subject, context and grade.

Groups follow tools/evaluate_acc.py of lupantech/ScienceQA (commit 2cbf831), the letter follows eval.py of MemVP and
LaVIN (JieShibo/MemVP, commit 5eef19f). Departs: any number of questions (the official script insists on 4,241), an
empty group is left out (there -1, or a division by zero), no rounding. Variant `sentence` reads "The answer is B." as
models/run_gpt3.py of the official repository does; it counts what it cannot read as wrong instead of guessing.
"""

import re
from collections.abc import Callable, Sequence

from memvp_data.metrics.pairing import Answered, ScoreError
from memvp_data.metrics.tally import Mark, Tally, tally_marks

LETTERS = "ABCDE"
GROUPS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_CAPITAL = re.compile(r"[A-Z]")
# The official pattern leaves its period unescaped: it matches any one character, and needs one.
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def first_capital(text: str) -> str | None:
    """The first capital anywhere; so parse what follows "The answer is", whose own T would win."""
    match = _CAPITAL.search(text)
    return match.group() if match else None


def sentence(text: str) -> str | None:
    """The letter of the only "The answer is B." in the text; None for no or several such sentences."""
    letters = _SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None


def index_of(letter: str | None, *, num_choices: int) -> int:
    """Place of the letter among the choices, -1 if it is none of them."""
    return LETTERS[:num_choices].find(letter) if letter else -1


def tally(answered: Sequence[Answered], *, extract: Callable[[str], str | None] = first_capital) -> Tally:
    """Average and the eight groups; a question with hint and image counts in TXT and IMG."""
    marks = (_mark(question, extract=extract) for question in answered)
    return tally_marks(marks, title="average", order=GROUPS, notes=_notes(answered) if extract is first_capital else ())


def _notes(answered: Sequence[Answered]) -> tuple[str, ...]:
    """Whole sentences read as continuations of "The answer is" all come out as T."""
    sentences = sum(question.text.lstrip().startswith("The answer is") for question in answered)
    advice = f'{sentences} predictions begin "The answer is": score whole sentences as scienceqa-sentence'
    return (advice,) if sentences else ()


def _mark(question: Answered, *, extract: Callable[[str], str | None]) -> Mark:
    place = index_of(extract(question.text), num_choices=len(question.choices()))
    right = place >= 0 and LETTERS[place] == question.sample.answers[0]
    return Mark(question.image, right, _groups(question), parsable=place >= 0)


def _groups(question: Answered) -> tuple[str, ...]:
    subject, grade = question.field("subject"), question.field("grade").removeprefix("grade")
    if subject not in SUBJECTS or not (grade.isdecimal() and len(grade) < 3 and 1 <= int(grade) <= 12):
        raise ScoreError(
            f"sample {question.sample.id!r} has subject {subject!r} and grade {grade!r}; expected one of "
            f"{', '.join(SUBJECTS)} and grade1 to grade12"
        )
    has_hint, has_image = question.field("has_hint") == "true", question.field("has_image") == "true"
    context = ["TXT"] * has_hint + ["IMG"] * has_image or ["NO"]
    return (SUBJECTS[subject], *context, "G1-6" if int(grade) <= 6 else "G7-12")
