"""The evaluation gate: whether a new version becomes the champion of the registry, and the sentence that says why."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.config.tracking import GateConfig

# Tags of a model version, by which a later job compares itself with the champion.
SCORE_TAG, QUESTIONS_TAG, REASON_TAG = "memvp.score", "memvp.questions", "memvp.gate"


@dataclass(frozen=True)
class Measured:
    """A version's headline score, and what it was measured on."""

    score: float
    """as in report.json"""
    name: str
    """the test slice or split"""
    questions: str
    """SHA-256 of its samples table; only scores on equal questions are compared"""

    def tags(self) -> dict[str, str]:
        """What the version is tagged with."""
        return {SCORE_TAG: repr(self.score), QUESTIONS_TAG: self.questions}


@dataclass(frozen=True)
class Verdict:
    """The gate's answer."""

    passed: bool
    """the version becomes the champion"""
    reason: str
    """one sentence, for the terminal, the registry and the report"""


def decide(gate: GateConfig, *, measured: Measured | None, champion: Mapping[str, str] | None) -> Verdict:
    """Whether a version with this score becomes the champion.

    Args:
        measured: None where the job has no test questions; then nothing vouches for the version.
        champion: tags of the version that is the champion now; None if there is none.
    """
    if measured is None:
        return _stays("there are no test questions to judge it by")
    said = f"{measured.score:.4g} on {measured.name}"
    if measured.score < gate.min_score:
        return _stays(f"{said} is below tracking.gate.min_score {gate.min_score:.4g}")
    if gate.max_drop is None or champion is None:
        before = "there was no champion" if champion is None else "the champion is not compared"
        return _moves(f"{said} reaches tracking.gate.min_score {gate.min_score:.4g}, and {before}")
    if champion.get(QUESTIONS_TAG) != measured.questions:
        return _stays(
            "the champion was not measured on the same questions; --tracking.gate.max_drop=null does not compare them"
        )
    other = float(champion[SCORE_TAG])
    if measured.score < other - gate.max_drop:
        return _stays(f"{said} is below the champion's {other:.4g}")
    return _moves(f"{said}, the champion had {other:.4g}")


def _moves(why: str) -> Verdict:
    return Verdict(True, f"the new champion: {why}")


def _stays(why: str) -> Verdict:
    return Verdict(False, f"registered, but not the champion: {why}")
