"""MME counts pairs, sums what is there and refuses half a pair."""

import itertools

import pytest

from memvp_data.metrics import mme
from memvp_data.metrics.pairing import ScoreError

from .questions import answered, asked


def pair_of(subtask: str, image: str, *texts: str) -> list:
    golds = ("Yes", "No")
    return [
        (asked(f"{subtask}-{image}-{gold}", gold, image=image, subtask=subtask), text)
        for gold, text in zip(golds, texts, strict=True)
    ]


@pytest.mark.parametrize(("first", "second"), [*itertools.product(["Yes", "No", "?"], repeat=2)])
def test_points_of_one_image(first: str, second: str) -> None:
    right = (first == "Yes") + (second == "No")
    found = mme.tally(answered(*pair_of("count", "i", first, second))).values()
    assert found["count"] == 50 * right + 100 * (right == 2)
    assert (found["count acc"], found["count acc+"]) == (50 * right, 100 * (right == 2))


def test_totals_name_what_is_missing_and_may_share_images() -> None:
    pairs = pair_of("count", "i", "Yes", "No") + pair_of("OCR", "i", "Yes", "Yes")
    pairs += pair_of("code_reasoning", "j", "other", "other")
    tally = mme.tally(answered(*pairs))
    found = tally.values()
    assert (found["perception"], found["cognition"], tally.num_unparsable) == (250, 0, 2)
    assert tally.notes == ("perception adds up 2 of its 10 subtasks", "cognition adds up 1 of its 4 subtasks")
    assert tally.images == ("i", "j")
    assert [*found][:2] == ["perception", "cognition"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("YES!", "yes"),
        ("no", "no"),
        (" no", "no"),
        ("a no", "no"),
        ("not", "no"),
        ("I say yes", "other"),
        ("", "other"),
    ],
)
def test_only_the_first_four_characters_are_read(text: str, expected: str) -> None:
    assert mme.parse(text) == expected


def test_half_a_pair_and_a_foreign_subtask() -> None:
    with pytest.raises(ScoreError, match="image 'i' of count has 1 questions, MME asks two"):
        mme.tally(answered(*pair_of("count", "i", "Yes", "No")[:1]))
    with pytest.raises(ScoreError, match="has subtask 'sum'; MME has existence, count"):
        mme.tally(answered(*pair_of("sum", "i", "Yes", "No")))
