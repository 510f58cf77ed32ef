"""When a version becomes the champion: enough by itself, and no worse than the champion on the same questions."""

import pytest

from pipelines.config.tracking import GateConfig
from pipelines.tracking.gate import QUESTIONS_TAG, SCORE_TAG, Measured, decide


def measured(score: float, *, questions: str = "q") -> Measured:
    return Measured(score, "image", questions)


def champion(score: float, *, questions: str = "q") -> dict[str, str]:
    return measured(score, questions=questions).tags()


@pytest.mark.parametrize(
    ("gate", "mine", "other", "passes"),
    [
        (GateConfig(), measured(0.0), None, True),
        (GateConfig(min_score=0.5), measured(0.5), None, True),
        (GateConfig(min_score=0.5), measured(0.499), None, False),
        (GateConfig(min_score=0.5), measured(0.499), champion(0.1), False),
        (GateConfig(), measured(0.7), champion(0.7), True),
        (GateConfig(), measured(0.6999), champion(0.7), False),
        (GateConfig(max_drop=0.01), measured(0.6999), champion(0.7), True),
        (GateConfig(max_drop=0.01), measured(0.68), champion(0.7), False),
        (GateConfig(), measured(0.9), champion(0.1, questions="other"), False),
        (GateConfig(max_drop=None), measured(0.1), champion(0.9, questions="other"), True),
        (GateConfig(max_drop=None, min_score=0.5), measured(0.1), champion(0.05), False),
        (GateConfig(), measured(0.9), {}, False),
        (GateConfig(), None, None, False),
    ],
)
def test_verdict(gate: GateConfig, mine: Measured | None, other: dict[str, str] | None, passes: bool) -> None:
    verdict = decide(gate, measured=mine, champion=other)
    assert verdict.passed is passes
    assert verdict.reason.startswith("the new champion: " if passes else "registered, but not the champion: ")


def test_score_survives_its_tag_exactly() -> None:
    third = measured(1 / 3)
    assert float(third.tags()[SCORE_TAG]) == 1 / 3
    assert decide(GateConfig(), measured=third, champion=third.tags()).passed
    assert third.tags()[QUESTIONS_TAG] == "q"


def test_refusal_names_the_setting_that_lets_it_pass() -> None:
    assert "--tracking.gate.max_drop=null" in decide(GateConfig(), measured=measured(1), champion={}).reason
    assert (
        "tracking.gate.min_score 0.5" in decide(GateConfig(min_score=0.5), measured=measured(0), champion=None).reason
    )
