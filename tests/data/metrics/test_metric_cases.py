"""Our numbers are the official evaluators' numbers: every case of metric_cases.json, to 1e-9 (METEOR to 1e-6).

`METRIC_CASES=<file>` in the environment takes the cases from another file of the same shape.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from memvp_data.metrics.captions import ptb_java
from memvp_data.metrics.captions.java_tools import TOKENIZER, find_jar
from memvp_data.metrics.pairing import ScoreError

from .official_cases import RUN

FILE = Path(os.environ.get("METRIC_CASES") or Path(__file__).parents[1] / "fixtures/metric_cases.json")
CASES = json.loads(FILE.read_text(encoding="utf-8"))


# What our scores are where the official tool crashes and we do not: no predicted yes, no answer that is yes or no.
INSTEAD_OF_A_CRASH = {"pope_metrics": {"precision": 0.0, "recall": 0.0, "f1": 0.0}, "mme_task_score": 0.0}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case_of_an_official_evaluator(case: dict[str, Any]) -> None:
    expected, run = case["expected"], RUN[case["metric"]]
    if isinstance(expected, str) and (expected.startswith("ERROR") or expected.endswith("Error")):
        if case["metric"] not in INSTEAD_OF_A_CRASH:
            with pytest.raises(ScoreError):
                run(case["predictions"], case["references"])
            return
        expected = INSTEAD_OF_A_CRASH[case["metric"]]
    check(run(case["predictions"], case["references"]), expected, path=case["id"])


@pytest.mark.skipif(find_jar(TOKENIZER) is None, reason="needs Java and pycocoevalcap")
def test_the_jar_cuts_the_same_words() -> None:
    cases = [case for case in CASES if case["metric"] == "ptb_tokenize"]
    assert ptb_java.tokenize([case["predictions"] for case in cases]) == [case["expected"] for case in cases]


def check(found: Any, expected: Any, *, path: str) -> None:
    """Equal, floats to a relative 1e-9; only the keys of `expected` count, and METEOR only where it could be run."""
    if isinstance(expected, dict):
        for name in expected:
            if name.startswith("METEOR") and name not in found:
                continue  # no Java here
            check(found[name], expected[name], path=f"{path}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for place, pair in enumerate(zip(found, expected, strict=True)):
            check(*pair, path=f"{path}.{place}")
    elif isinstance(expected, float | int) and not isinstance(expected, bool):
        assert found == pytest.approx(expected, rel=1e-6 if "METEOR" in path else 1e-9, abs=1e-12), path
    else:
        assert (found, type(found)) == (expected, type(expected)), path


def test_there_are_cases_of_every_metric() -> None:
    assert {case["metric"] for case in CASES} <= set(RUN)
    assert len(CASES) >= 100
