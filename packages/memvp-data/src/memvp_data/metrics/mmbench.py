"""MMBench with circular evaluation: a question counts only if every rotation of its options is answered right.

Follows multiple_choice.py of VLMEvalKit (commit e8e78f05) in its exact-matching mode. Departs: no language model is
asked, so a question left undecided by the rules counts 0. The rotations of a question are the rows that the file has
for it: 53 of the dev file's 1,176 questions have fewer rows than options, since options such as "None of these" stay in
their place. The rules that read a letter are in mmbench_letters.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from memvp_data.metrics import mmbench_letters
from memvp_data.metrics.pairing import Answered, ScoreError
from memvp_data.metrics.tally import Mark, Tally, tally_marks

ROTATION = 1_000_000  # a row's index is that of its question plus this times the number of the rotation
LETTERS = "ABCD"
Rules = Callable[[str, Mapping[str, str]], str | None]


def circular(letters: Sequence[str | None], golds: Sequence[str]) -> int | None:
    """1 if all passes are right, 0 if one is decidedly wrong, None if undecided passes leave it open."""
    if any(letter and letter != gold for letter, gold in zip(letters, golds, strict=True)):
        return 0
    return 1 if all(letters) else None


def options_of(question: Answered) -> dict[str, str]:
    """Letter -> text of the option."""
    choices = question.choices()
    if len(choices) > len(LETTERS):
        raise ScoreError(f"sample {question.sample.id!r} has {len(choices)} choices, MMBench has 2 to {len(LETTERS)}")
    return dict(zip(LETTERS, choices, strict=False))


def tally(answered: Sequence[Answered], *, rules: Rules = mmbench_letters.current) -> Tally:
    """Accuracy over questions (not rows), by split, l2-category and category. Unparsable rows are those undecided."""
    letters = {question.sample.id: rules(question.text, options_of(question)) for question in answered}
    marks = (_mark(rotations, letters=letters) for rotations in _questions(answered).values())
    undecided = sum(letter in (None, mmbench_letters.REFUSED) for letter in letters.values())
    counted = tally_marks(marks)
    notes = ("letters read by rules alone; undecided counts as wrong", f"{counted.n} questions in {len(letters)} rows")
    return replace(counted, n=len(letters), num_unparsable=undecided, notes=notes)


def _questions(answered: Sequence[Answered]) -> dict[int, list[Answered]]:
    """Base index -> all rows about the question."""
    questions: dict[int, list[Answered]] = {}
    for row in answered:
        index = row.field("index")
        if not (index.isdecimal() and index.isascii() and len(index) < 12):
            raise ScoreError(f"sample {row.sample.id!r} has index {index[:40]!r}; MMBench numbers its rows")
        questions.setdefault(int(index) % ROTATION, []).append(row)
    return questions


def _mark(rotations: Sequence[Answered], *, letters: Mapping[str, str | None]) -> Mark:
    golds = [row.sample.answers[0] for row in rotations]
    hit = circular([letters[row.sample.id] for row in rotations], golds)
    fields = rotations[0].sample.fields
    names = (("split", "split"), ("l2_category", "l2-category"), ("category", "category"))
    groups = tuple(f"{title}: {fields[name]}" for name, title in names if fields.get(name))
    return Mark(rotations[0].image, float(hit or 0), groups)
