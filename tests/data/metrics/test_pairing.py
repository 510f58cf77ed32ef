"""Absurd predictions end in one clear sentence, soon."""

import json
import math
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics.pairing import MAX_ANSWER_CHARACTERS, Answered, ScoreError, pair, read_predictions
from memvp_data.metrics.suite import METRICS, score

from .questions import asked, row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON, JSON, st.sampled_from(["question_id", "id"]))
def test_a_row_is_text_for_an_id_and_anything_else_an_error(name: Any, text: Any, key: str) -> None:
    is_row = key == "question_id" and isinstance(text, str) and type(name) in (str, int)
    message = "not among|no prediction for" if is_row else "prediction 1 must have"
    with pytest.raises(ScoreError) as raised:
        pair([{key: name, "text": text}], [asked("a", "x")] if name != "a" else [asked("b", "x")])
    assert len(str(raised.value)) < 400
    assert any(part in str(raised.value) for part in message.split("|"))


@pytest.mark.parametrize("absurd", [[], "text", None, 3, math.nan, {"question_id": math.nan, "text": "x"}])
def test_rows_that_are_none(absurd: Any) -> None:
    with pytest.raises(ScoreError, match='prediction 1 must have "question_id" and a string "text"'):
        pair([absurd], [asked("a", "x")])


def test_an_endless_answer_is_refused_and_a_long_one_scored_soon() -> None:
    with pytest.raises(ScoreError, match=r"has 10,000,000 characters, an answer has at most 100,000; predict again"):
        pair([row("a", "x" * 10_000_000)], [asked("a", "x")])
    assert pair([row("a", "x" * MAX_ANSWER_CHARACTERS)], [asked("a", "x")])


@pytest.mark.parametrize(
    "unit", ["a.", "'", "n't", "<", "1,", "answer is ", "The answer is ", "http://", "1/", "A ", "😀"]
)
@pytest.mark.parametrize("dataset", [*METRICS])
def test_every_metric_copes_with_the_longest_answer(dataset: str, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java: our own tokenizer must cope
    fields = {"choices": '["x", "y"]', "subject": "social science", "grade": "grade1", "subtask": "count"}
    fields |= {"has_hint": "true", "has_image": "true"}
    samples = [
        asked(str(n), *answers, image="i", index=str(index), **fields)
        for n, (index, answers) in enumerate(zip((7, 1000007), (["A"] * 10, ["B"] * 10), strict=True))
    ]
    if dataset == "coco-meteor":
        with pytest.raises(ScoreError, match=r"METEOR cannot run: there is no java on the PATH; install"):
            score(dataset, [row("0", ""), row("1", "")], samples, resamples=2)
        return
    start = process_time()
    text = (unit * MAX_ANSWER_CHARACTERS)[:MAX_ANSWER_CHARACTERS]
    report = score(dataset, [row("0", text), row("1", "")], samples, resamples=2)
    assert process_time() - start < 5
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["n"] == 2


def test_predictions_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"question_id": 7, "text": "yes", "prompt": "?"}\n\n{"question_id": "a", "text": ""}\n')
    assert [row["question_id"] for row in read_predictions(path)] == [7, "a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question_id": 1, "text": "x"}\n[]\n', "line 2"),
        (b'{"question_id": 1,\n', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b"1" * 100_000, "line 1"),
        (b"\xff\xfe\n", "UTF-8"),
    ],
    ids=["list", "cut", "deep", "number", "bytes"],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    with pytest.raises(ScoreError, match=message):
        read_predictions(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"nothing\.jsonl"):
        read_predictions(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize("choices", ["", "x", "[1]", "{}", "[]", "[" * 10_000])
def test_choices_are_a_list_of_strings(choices: str) -> None:
    question = Answered(asked("a", "x", choices=choices), "x")
    with pytest.raises(ScoreError, match="sample 'a': choices must be a JSON list of strings"):
        question.choices()


def test_a_missing_field_is_named() -> None:
    question = Answered(asked("a", "x", grade="grade1"), "x")
    with pytest.raises(ScoreError, match=r"lacks the field 'subject' that this metric needs \(it has: grade\)"):
        question.field("subject")
