"""What is written as LLaVA's files is read back as the same samples."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.llava import read_conversations, read_questions
from memvp_data.datasets.llava_writer import write_conversations, write_questions
from memvp_data.samples import Sample, Turn, to_id

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.strip)
ROUNDS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)
IMAGES = st.sampled_from([(), (to_id("shelf/1.jpg"),)])


@given(rounds=ROUNDS, images=IMAGES, system=st.booleans())
def test_conversations_come_back(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[str, str]], images: tuple[str, ...], system: bool
) -> None:
    turns = [Turn(role, text) for said in rounds for role, text in zip(("user", "assistant"), said, strict=True)]
    sample = Sample("7", images, (*[Turn("system", "Be brief.")] * system, *turns), source="mix.json")
    samples = [sample, replace(sample, id=to_id("a/8"), image_ids=())]
    path = tmp_path_factory.mktemp("mix") / "mix.json"
    assert write_conversations(path, samples) == 2
    assert list(read_conversations(path, image_root=None)) == samples
    assert (json.loads(path.read_text())[0]["conversations"][int(system)]["value"][:7] == "<image>") == bool(images)


@given(text=TEXT, answers=st.lists(TEXT, min_size=1, max_size=3).map(tuple), images=IMAGES)
def test_questions_come_back(
    tmp_path_factory: pytest.TempPathFactory, text: str, answers: tuple[str, ...], images: tuple[str, ...]
) -> None:
    folder = tmp_path_factory.mktemp("questions")
    sample = Sample("7", images, (Turn("user", text),), "colour", answers, "q.jsonl")
    assert write_questions(folder / "q.jsonl", [sample], answers=folder / "a.jsonl") == 1
    assert list(read_questions(folder / "q.jsonl", answers=folder / "a.jsonl")) == [sample]


def test_no_samples_are_an_empty_file(tmp_path: Path) -> None:
    assert write_conversations(tmp_path / "mix.json", []) == 0
    assert json.loads((tmp_path / "mix.json").read_text()) == []
    with pytest.raises(DatasetError, match=r"mix\.json holds no records"):
        list(read_conversations(tmp_path / "mix.json", image_root=None))


def test_what_the_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    asked = Sample("7", ("a", "b"), (Turn("user", "Who?"),), answers=("Ann",))
    with pytest.raises(DatasetError, match=r"'7' has 2 images; LLaVA's files hold one a record"):
        write_conversations(tmp_path / "mix.json", [asked])
    with pytest.raises(DatasetError, match=r"one question and its answers, got 1 questions and 0 answers"):
        write_questions(tmp_path / "q.jsonl", [replace(asked, answers=())], answers=tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []
