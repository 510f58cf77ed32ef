"""MMBench: all rotations that the file has, or nothing; the letter must be decided by rules."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics import mmbench, mmbench_letters
from memvp_data.metrics.pairing import ScoreError
from memvp_data.samples import Sample

from .questions import answered, asked

OPTIONS = ("cat", "dog", "car", "tree")


def rotations(index: int, options: Sequence[str] = OPTIONS, *, right: int = 0, **fields: str) -> list[Sample]:
    rows = []
    for turn in range(len(options)):
        turned = [*options[turn:], *options[:turn]]
        letter = "ABCD"[turned.index(options[right])]
        number = index + turn * mmbench.ROTATION
        rows.append(
            asked(str(number), letter, image=f"i{index}", index=str(index), choices=json.dumps(turned), **fields)
        )
    return rows


@given(st.integers(0, 3), st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_question_counts_when_every_rotation_is_right(right: int, hits: list[bool]) -> None:
    rows = rotations(7, right=right)
    texts = [
        row.answers[0] if hit else "ABCD"["ABCD".index(row.answers[0]) - 1] for row, hit in zip(rows, hits, strict=True)
    ]
    tally = mmbench.tally(answered(*zip(rows, texts, strict=True)))
    assert tally.values() == {"accuracy": 100 * all(hits)}
    assert (tally.n, tally.measures["accuracy"].n) == (4, 1)


def test_always_the_same_letter_is_worth_nothing_and_the_words_are_worth_all() -> None:
    rows = rotations(7, category="animals", l2_category="things", split="dev") + rotations(
        8, ("yes", "no"), category="q"
    )
    constant = mmbench.tally(answered(*((row, "A") for row in rows)))
    words = mmbench.tally(answered(*((row, {"7": "cat", "8": "yes"}[row.fields["index"]]) for row in rows)))
    assert set(constant.values().values()) == {0}
    assert words.values() == {
        **{"accuracy": 100, "split: dev": 100, "l2-category: things": 100},
        **{"category: animals": 100, "category: q": 100},
    }


def test_undecided_and_refused_rows_are_unparsable_and_wrong() -> None:
    rows = rotations(7)
    tally = mmbench.tally(answered(*zip(rows, ["A", "D", "A or B", "Cannot determine the answer"], strict=True)))
    assert tally.values()["accuracy"] == 0
    assert tally.num_unparsable == 2


@pytest.mark.parametrize(("letters", "expected"), [("AB", 1), ("AA", 0), ((None, "A"), 0), (("A", None), None)])
def test_one_wrong_pass_decides(letters: Sequence[str | None], expected: int | None) -> None:
    assert mmbench.circular(letters, "AB") == expected


@given(st.text(alphabet="ABCDZ .,answeri\n", max_size=40))
def test_rules_name_an_option_a_refusal_or_nothing(text: str) -> None:
    options = dict(zip("ABCD", OPTIONS, strict=True))
    assert mmbench_letters.current(text, options) in (*options, "Z", None)
    assert mmbench_letters.rules_2023(text, options) in (*options, "E", None)


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_options_that_stay_in_place_leave_fewer_rotations_than_options(hits: list[bool]) -> None:
    """As 53 questions of the real dev file: "None of these" is option D of every row, so there are three."""
    rows = []
    for turn in range(3):
        turned = ["cat", "dog", "car"][turn:] + ["cat", "dog", "car"][:turn] + ["None of these"]
        letter = "ABCD"[turned.index("dog")]
        number = str(7 + turn * mmbench.ROTATION)
        rows.append(asked(number, letter, image="i7", index="7", choices=json.dumps(turned)))
    texts = [row.answers[0] if hit else "D" for row, hit in zip(rows, hits, strict=True)]
    tally = mmbench.tally(answered(*zip(rows, texts, strict=True)))
    assert tally.values() == {"accuracy": 100 * all(hits)}
    assert (tally.n, tally.measures["accuracy"].n) == (3, 1)


def test_faults() -> None:
    with pytest.raises(ScoreError, match="has index '-1'; MMBench numbers its rows"):
        mmbench.tally(answered((asked("1", "A", index="-1", choices='["x"]'), "A")))
    with pytest.raises(ScoreError, match="has 5 choices, MMBench has 2 to 4"):
        mmbench.tally(answered((asked("1", "A", index="1", choices='["1","2","3","4","5"]'), "A")))
