"""TVQA and How2QA: five choices and a show, four choices and none; test without answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.video import read_how2qa, read_tvqa
from memvp_data.samples import Sample, Turn
from tests.data.datasets.put_files import GONE


def test_a_question_about_a_clip(official: Callable[[str], Path]) -> None:
    samples = list(read_tvqa(official("tvqa"), split="val"))
    assert samples[1] == Sample(
        "8",
        ("grey_us06e12_useg02_uclip_u16_dnpz",),
        (Turn("user", " What does Ann hold? "),),
        task="Grey's Anatomy",
        answers=("a0",),
        source="tvqa_val.jsonl",
        fields={
            "choices": json.dumps([f"A cup {n}." for n in range(5)]),
            "question": "What does Ann hold?",
            "ts": "NaN-NaN",
            "subtitles": "Ann: Hello. ( sighs )",
            "vid_name": "grey_s06e12_seg02_clip_16",
            "show_name": "Grey's Anatomy",
        },
    )
    assert len(samples[2].fields["subtitles"].split()) > 600


def test_how2qa_has_four_choices_and_no_show(official: Callable[[str], Path]) -> None:
    (sample,) = read_how2qa(official("how2qa"), split="train")
    assert sample.turns[-1] == Turn("assistant", "a2")
    assert sample.answers == ("a2",)
    assert len(json.loads(sample.fields["choices"])) == 4
    assert "show_name" not in sample.fields
    assert sample.task == ""


def test_test_questions_are_asked_without_answer(official: Callable[[str], Path]) -> None:
    assert [sample.answers for sample in read_tvqa(official("tvqa"), split="test_public")] == [()] * 3


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        ((1, "answer_idx"), 5, r"line 2 \(qid 8\): \"answer_idx\" must be an integer from 0 on below 5, got 5"),
        ((1, "answer_idx"), GONE, r"\"answer_idx\" must be an integer"),
        ((1, "a4"), GONE, r"\"a4\" must be a string, got None"),
        ((1, "qid"), 7, r"line 2 \(qid 7\): this qid '7' was used before"),
        ((1, "vid_name"), "../x", r"clip '../x' has no line in ann/tv_subtitles\.jsonl"),
        ((1, "show_name"), 7, r"\"show_name\" must be a string"),
        ((1, "ts"), None, r"\"ts\" must be a string"),
    ],
)
def test_a_bad_line_is_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"^tvqa_val\.jsonl, .*{message}"):
        list(read_tvqa(changed("tvqa", file="ann/tvqa/tvqa_val.jsonl", at=at, to=to), split="val"))


@pytest.mark.parametrize(
    ("at", "to", "message"),
    [
        ((1, "sub"), 3, r"line 2: \"sub\" must be a list of objects"),
        ((1, "sub", 0, "text"), None, r"line 2: \"text\" must be a string"),
        ((1, "vid_name"), "s01e01_seg01_clip_00", r"line 2: clip 's01e01_seg01_clip_00' has two lines"),
    ],
)
def test_bad_subtitles_are_named(changed: Callable[..., Path], at: tuple, to: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"^tv_subtitles\.jsonl, {message}"):
        list(read_tvqa(changed("tvqa", file="ann/tv_subtitles.jsonl", at=at, to=to), split="val"))


def test_a_clip_without_features_is_named(official: Callable[[str], Path]) -> None:
    root = official("how2qa")
    (root / "vis_features/how2/clip-vit/1234.npz").unlink()
    with pytest.raises(DatasetError, match=r"image '1234.npz' is not in .*vis_features/how2/clip-vit"):
        list(read_how2qa(root, split="val"))
