"""POPE: F1 from four counts, guarded where the official script divides by zero."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics import pope

from .questions import answered, asked

LABELS = st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from(["random", "popular"])), min_size=1)


@given(LABELS)
def test_measures_are_shares_and_f1_lies_between_precision_and_recall(cases: list[tuple[bool, bool, str]]) -> None:
    tally = pope.tally(
        answered(
            *(
                (asked(str(n), "yes" if gold else "no", image=str(n % 3), pope_split=split), "Yes" if said else "No")
                for n, (said, gold, split) in enumerate(cases)
            )
        )
    )
    found = tally.values()
    splits = {split for _, _, split in cases}
    assert all(0 <= value <= 100 for value in found.values())
    assert found["f1, mean of the splits"] == pytest.approx(np.mean([found[f"{split} f1"] for split in splits]))
    for split in splits:
        low, high = sorted((found[f"{split} precision"], found[f"{split} recall"]))
        assert low - 1e-9 <= found[f"{split} f1"] <= high + 1e-9
        mine = [(said, gold) for said, gold, part in cases if part == split]
        assert found[f"{split} accuracy"] == pytest.approx(100 * np.mean([said == gold for said, gold in mine]))
        assert found[f"{split} yes_ratio"] == pytest.approx(100 * np.mean([said for said, _ in mine]))
        assert any(split in note for note in tally.notes) != any(said for said, _ in mine)


def test_never_yes_scores_0_and_says_so() -> None:
    tally = pope.tally(answered((asked("1", "yes", pope_split="random"), "No"), (asked("2", "no"), "no")))
    found = tally.values()
    assert (found["random precision"], found["random recall"], found["random f1"]) == (0, 0, 0)
    assert found["all accuracy"] == 100
    assert tally.notes == tuple(
        f"no predicted yes in {split}: its precision, recall and F1 are 0 here, the official script fails there"
        for split in ("random", "all")
    )


def test_an_answer_that_is_neither_counts_as_yes_and_as_unparsable() -> None:
    tally = pope.tally(answered((asked("1", "yes"), "a dog"), (asked("2", "yes"), "NO"), (asked("3", "yes"), "yes")))
    assert tally.values()["all recall"] == 100
    assert tally.num_unparsable == 1
