"""SQA-I: LLaVA's texts with ScienceQA's fields."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.scienceqa import read_scienceqa
from memvp_data.datasets.sqa_i import read_sqa_i
from memvp_data.samples import Turn


def test_questions_are_llavas_words_with_scienceqas_answers(official: Callable[[str], Path]) -> None:
    root = official("sqa_i")
    samples = list(read_sqa_i(root))
    asked = "Context: Look at the table.\nWhich is  heavier, 6?\nA. feather\nB. brick\nC. both\nD. neither"
    assert samples[5].turns == (Turn("user", asked),)
    assert samples[0].turns == (Turn("user", "Which is  heavier, 1?\nA. feather\nB. brick\nC. both"),)
    for sample, problem in zip(samples, read_scienceqa(root, split="test"), strict=True):
        assert (sample.id, sample.image_ids, sample.answers) == (problem.id, problem.image_ids, problem.answers)
        assert sample.fields.items() <= problem.fields.items()


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        ((1, "id"), "11", r"the test split of problems\.json does not have it"),
        ((1, "id"), "1", r"this id '1' was used before"),
        ((1, "id"), None, r"\"id\" must be a string or an integer"),
        ((1, "conversations", 1, "value"), "C", r"its answer is 'C' and 'A' in problems\.json"),
        ((1, "conversations"), [], r"\"conversations\" must be one human and one gpt turn, got \[\]"),
        ((1, "conversations", 0, "value"), 3, r"\"value\" must be a string"),
        ((1, "image"), "/etc/passwd", r"could leave its folder"),
    ],
)
def test_a_bad_record_is_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"^llava_test_CQM-A\.json, record 1 \(id .*{message}"):
        list(read_sqa_i(changed("sqa_i", file="llava_test_CQM-A.json", at=at, to=to)))
