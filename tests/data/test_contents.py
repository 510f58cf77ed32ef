"""What is odd in a set of samples is counted while it passes."""

from hypothesis import given
from hypothesis import strategies as st

from memvp_data import contents
from memvp_data.contents import Contents
from memvp_data.samples import Sample, Turn


def sample(number: int, *, question: str = "what ?", answer: str = "it", image: bool = True) -> Sample:
    turns = (Turn("user", question), Turn("assistant", answer))
    return Sample(f"id-{number}", ("picture",) if image else (), turns)


def test_each_oddity_is_counted_and_the_samples_pass_as_they_are() -> None:
    given_samples = [
        sample(0),
        sample(1, question=" \n"),
        sample(2, answer=""),
        sample(3),
        sample(4, image=False),
        sample(5, question="", answer=" "),
    ]
    found = Contents()
    assert list(found.watched(iter(given_samples))) == given_samples
    assert (found.samples, found.without_image, found.repeated) == (6, 1, 1)
    assert (found.blank_questions, found.blank_answers) == (2, 2)
    assert found.oddities() == (
        "2 with a blank question, 2 with a blank answer to learn, 1 there again under another id"
    )


def test_nothing_odd_is_nothing_said() -> None:
    found = Contents()
    list(found.watched([sample(0), sample(1, answer="that")]))
    assert found.oddities() == ""


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_repeats_are_those_beyond_the_first(words: list[str]) -> None:
    found = Contents()
    list(found.watched(sample(number, question=word) for number, word in enumerate(words)))
    assert found.repeated == len(words) - len(set(words))


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(contents, "_MOST_REMEMBERED", 2)
    found = Contents()
    list(found.watched(sample(number, question=word) for number, word in enumerate("abcca")))
    assert (found.repeated, len(found._seen)) == (1, 2)
