"""VQA accuracy is a fair mean over annotators; what sets its variants apart is named."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics import vqa, vqa_text
from memvp_data.metrics.pairing import ScoreError

from .questions import answered, asked

ANSWERS = st.sampled_from(["yes", "Yes", "yes.", "no", "2", "two", "a dog", "the dog", "hot-dog", "", "dont know"])
TEN = st.lists(ANSWERS, min_size=10, max_size=10)
RULES = [vqa.official, vqa.vlpet, vqa.evalai, vqa.topk]


@pytest.mark.parametrize("rule", RULES)
@given(prediction=ANSWERS, golds=TEN, seed=st.integers(0, 99))
def test_marks_lie_between_0_and_1_and_annotators_have_no_order(
    rule: vqa.Rule, prediction: str, golds: list[str], seed: int
) -> None:
    shuffled = random.Random(seed).sample(golds, len(golds))
    assert 0 <= rule(prediction, golds) <= 1
    assert rule(prediction, shuffled) == pytest.approx(rule(prediction, golds))


@pytest.mark.parametrize("matches", range(11))
def test_soft_targets_are_the_leave_one_out_accuracies(matches: int) -> None:
    golds = ["x"] * matches + ["y"] * (10 - matches)
    assert vqa.leave_one_out("x", golds) == pytest.approx(vqa.soft_score(matches))


@given(TEN.filter(lambda golds: len(set(golds)) > 1), ANSWERS)
def test_normalising_first_changes_nothing_where_annotators_disagree(golds: list[str], prediction: str) -> None:
    normalised = [vqa_text.normalise(gold) for gold in golds]
    if len(set(normalised)) > 1:
        assert vqa.official(vqa_text.normalise(prediction), normalised) == vqa.official(prediction, golds)


def test_the_variants_differ_where_they_should() -> None:
    ten_yes, ten_two = ["yes"] * 10, ["two"] * 10
    assert [rule("Yes", ten_yes) for rule in RULES] == pytest.approx([0, 1, 1, 0])
    assert [rule("two", ten_two) for rule in RULES] == pytest.approx([1, 0, 1, 1])


def test_all_120_contractions_are_there() -> None:
    assert len(vqa_text._CONTRACTIONS) == 120
    assert vqa_text.normalise("shouldntve id've couldn'tve yall'd've lets") == (
        "shouldntve id've couldn't've y'all'd've lets"
    )


@given(st.text(alphabet="ab. ,1-?'the", max_size=30))
def test_normal_text_has_single_spaces_no_marks_and_lower_case(text: str) -> None:
    normal = vqa_text.normalise(text)
    assert normal == " ".join(normal.split()).lower()
    assert not set("-?").intersection(normal)
    assert not {"a", "an", "the"}.intersection(normal.split())


def test_at_most_32_periods_go() -> None:
    assert vqa_text.normalise("." * 40) == "." * 8


def test_groups_by_answer_type_and_question_type() -> None:
    tally = vqa.tally(
        answered(
            (asked("1", *["yes"] * 10, image="i", answer_type="yes/no", question_type="is"), "yes"),
            (asked("2", *["2"] * 3, *["3"] * 7, image="i", answer_type="number", question_type="how many"), "2"),
            (asked("3", *["red"] * 10, image="j"), "  "),
        )
    )
    assert tally.values() == pytest.approx(
        {"accuracy": 190 / 3, "yes/no": 100, "number": 90, "question type: how many": 90, "question type: is": 100}
    )
    assert (tally.n, tally.num_unparsable, tally.images) == (3, 1, ("i", "j"))


def test_evalai_takes_ten_answers() -> None:
    with pytest.raises(ScoreError, match="the answers of ten annotators, got 3"):
        vqa.evalai("x", ["x"] * 3)
