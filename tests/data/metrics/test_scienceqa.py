"""The eight groups overlap as they should, and letters that are none count as wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics import scienceqa, sqa_i
from memvp_data.metrics.pairing import ScoreError
from memvp_data.samples import Sample

from .questions import answered, asked

SUBJECTS = [*scienceqa.SUBJECTS]


def problem(name: str, letter: str, *, subject: str, hint: bool, image: bool, grade: int) -> Sample:
    flags = {"has_hint": json.dumps(hint), "has_image": json.dumps(image)}
    return asked(name, letter, subject=subject, grade=f"grade{grade}", choices='["a", "b", "c"]', **flags)


PROBLEMS = st.builds(
    problem,
    name=st.just("x"),
    letter=st.sampled_from("ABC"),
    subject=st.sampled_from(SUBJECTS),
    hint=st.booleans(),
    image=st.booleans(),
    grade=st.integers(1, 12),
)


@given(st.lists(st.tuples(PROBLEMS, st.text(alphabet="ABCDabc. ", max_size=4)), min_size=1, max_size=20))
def test_groups_add_up_to_the_whole(cases: list[tuple[Sample, str]]) -> None:
    pairs = [(asked(str(n), *one.answers, **one.fields), text) for n, (one, text) in enumerate(cases)]
    tally = scienceqa.tally(answered(*pairs))
    found, n = tally.values(), {name: measure.n for name, measure in tally.measures.items()}
    right = {name: found[name] * n[name] for name in n}
    for parts in (("NAT", "SOC", "LAN"), ("G1-6", "G7-12")):
        assert sum(n.get(part, 0) for part in parts) == n["average"] == len(cases)
        assert sum(right.get(part, 0) for part in parts) == pytest.approx(right["average"])
    assert n.get("TXT", 0) + n.get("IMG", 0) + n.get("NO", 0) >= n["average"]
    assert [name for name in scienceqa.GROUPS if name in n] == [*n][1:]


def test_a_hint_and_an_image_count_twice_and_empty_groups_are_left_out() -> None:
    one = problem("1", "B", subject="natural science", hint=True, image=True, grade=6)
    two = problem("2", "C", subject="language science", hint=False, image=False, grade=7)
    tally = scienceqa.tally(answered((one, " B"), (two, "the answer is c")))
    assert tally.values() == {
        **{"average": 50, "NAT": 100, "LAN": 0, "TXT": 100, "IMG": 100, "NO": 0},
        **{"G1-6": 100, "G7-12": 0},
    }
    assert tally.num_unparsable == 1


@pytest.mark.parametrize(
    ("text", "first", "sentence", "llava"),
    [
        ("B", "B", None, "B"),
        ("B.", "B", None, None),
        ("B. x", "B", None, "B"),
        ("The answer is B.", "T", "B", "B"),
        ("The answer is B", "T", None, None),
        ("The answer is B. The answer is B.", "T", None, None),
        ("", None, None, None),
        ("AB", "A", None, None),
        ("F", "F", None, None),
    ],
)
def test_three_ways_to_read_a_letter(text: str, first: str | None, sentence: str | None, llava: str | None) -> None:
    assert scienceqa.first_capital(text) == first
    assert scienceqa.sentence(text) == sentence
    assert sqa_i.parse(text) == llava


def test_letters_beyond_the_choices_are_none() -> None:
    assert [scienceqa.index_of(letter, num_choices=2) for letter in ("A", "B", "C", None)] == [0, 1, -1, -1]


@pytest.mark.parametrize(("name", "value"), [("subject", "art"), ("grade", "grade13"), ("grade", "x"), ("grade", "²")])
def test_foreign_groups_are_refused(name: str, value: str) -> None:
    one = problem("1", "B", subject="natural science", hint=True, image=True, grade=6)
    odd = asked("1", "B", **{**one.fields, name: value})
    with pytest.raises(ScoreError, match=r"sample '1' has subject .*; expected one of natural science"):
        scienceqa.tally(answered((odd, "B")))


def test_sqa_i_is_the_score_of_questions_with_an_image() -> None:
    one = problem("1", "B", subject="natural science", hint=True, image=True, grade=6)
    two = problem("2", "C", subject="language science", hint=False, image=False, grade=7)
    tally = sqa_i.tally(answered((one, "B"), (two, "A")))
    assert [*tally.values().items()] == [("questions with an image", 100), ("all questions", 50)]
    assert [*sqa_i.tally(answered((two, "C"))).values().items()] == [("all questions", 100)]


def test_whole_sentences_are_noticed() -> None:
    one = problem("1", "B", subject="natural science", hint=True, image=True, grade=6)
    sentence = answered((one, "The answer is B."))
    first = scienceqa.tally(sentence)
    assert (first.values()["average"], first.num_unparsable) == (0, 1)
    assert first.notes == ('1 predictions begin "The answer is": score whole sentences as scienceqa-sentence',)
    whole = scienceqa.tally(sentence, extract=scienceqa.sentence)
    assert (whole.values()["average"], whole.notes) == (100, ())
