"""LLaVA's files become the samples that LLaVA itself would train on, or one sentence that names the record."""

import json
from pathlib import Path

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.llava import read_conversations, read_questions
from memvp_data.samples import Sample, Turn, from_id


def human(text: str) -> dict:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict:
    return {"from": "gpt", "value": text}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images/00001").mkdir(parents=True)
    (tmp_path / "images/00001/7.jpg").write_bytes(b"any")
    return tmp_path


def conversations(root: Path, *records: dict) -> list[Sample]:
    (root / "mix.json").write_text(json.dumps(records))
    return list(read_conversations(root / "mix.json", image_root=root / "images"))


def questions(root: Path, *records: dict, answers: list[dict] | None = None) -> list[Sample]:
    (root / "q.jsonl").write_text("\n".join(map(json.dumps, records)))
    (root / "a.jsonl").write_text("\n".join(map(json.dumps, answers or [])))
    key = None if answers is None else root / "a.jsonl"
    return list(read_questions(root / "q.jsonl", answers=key, image_root=root / "images"))


@pytest.mark.parametrize("text", ["<image>\nWhat?", "What?\n<image>", "<image>What?"])
def test_the_placeholder_is_removed_wherever_it_stands(root: Path, text: str) -> None:
    record = {"id": 12, "image": "00001/7.jpg", "conversations": [human(text), gpt("A dog."), human(" ? "), gpt("ok")]}
    assert conversations(root, record) == [
        Sample(
            id="12",
            image_ids=("00001_s7_djpg",),
            turns=(Turn("user", "What?"), Turn("assistant", "A dog."), Turn("user", " ? "), Turn("assistant", "ok")),
            source="mix.json",
        )
    ]


def test_a_text_only_record_keeps_its_words_and_extra_fields_do_not_matter(root: Path) -> None:
    record = {"id": "wgB_0", "model": "x", "conversations": [human("Use <image> in HTML"), gpt("<img>")]}
    (sample,) = conversations(root, record)
    assert sample == Sample(
        id="wgB_u0",
        image_ids=(),
        turns=(Turn("user", "Use <image> in HTML"), Turn("assistant", "<img>")),
        source="mix.json",
    )


def test_ids_that_repeat_as_in_the_mix_are_numbered(root: Path) -> None:
    records = [{"id": name, "conversations": [human("a"), gpt("b")]} for name in ("7", "7", "7#2", 7)]
    assert [from_id(sample.id) for sample in conversations(root, *records)] == ["7", "7#2", "7#2#2", "7#3"]


def test_a_leading_answer_is_dropped_and_a_system_turn_kept(root: Path) -> None:
    first = {"id": "1", "conversations": [gpt("hello"), human("a"), gpt("b")]}
    second = {"id": "2", "conversations": [{"from": "system", "value": "s"}, human("a"), gpt("b"), human("c")]}
    roles = [[turn.role for turn in sample.turns] for sample in conversations(root, first, second)]
    assert roles == [["user", "assistant"], ["system", "user", "assistant", "user"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "00001/8.jpg"}, r"image '00001/8.jpg' is not in .*images; put it there"),
        ({"image": "../mix.json"}, r"'../mix.json' could leave its folder"),
        ({"image": "/etc/passwd"}, r"'/etc/passwd' could leave its folder"),
        ({"image": ["00001/7.jpg"]}, "must be one relative path"),
        ({"id": "../../x"}, r"'../../x' could leave its folder"),
        ({"id": None}, '"id" must be a string or an integer, got None'),
        ({"id": "x" * 5000}, "has 5,000 bytes, more than the 4,096 of a path"),
        ({"conversations": "hi"}, '"conversations" must be a list'),
        ({"conversations": []}, "nothing to learn"),
        ({"conversations": [human("a")]}, "nothing to learn"),
        ({"conversations": [human("a"), human("b")]}, "roles must alternate"),
        ({"conversations": [human("a"), gpt("b"), gpt("c")]}, "roles must alternate"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "a turn must be"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "a turn must be"),
        ({"conversations": [{"from": "human"}]}, "a turn must be"),
        ({"conversations": ["hi"]}, "a turn must be"),
        ({"conversations": [human("\ud800"), gpt("b")]}, "surrogate"),
        ({"conversations": [human("a" * 10_000_000), gpt("b")]}, "10,000,000 characters, more than the 1,048,576"),
    ],
)
def test_a_bad_record_is_named(root: Path, change: dict, message: str) -> None:
    good = {"id": "good", "image": "00001/7.jpg", "conversations": [human("<image>\na"), gpt("b")]}
    with pytest.raises(DatasetError, match=message) as caught:
        conversations(root, good, {**good, "id": "bad", **change})
    assert str(caught.value).startswith("mix.json, record 1 (id ")
    assert "\n" not in str(caught.value)


def test_samples_before_a_bad_record_are_delivered(root: Path) -> None:
    (root / "mix.json").write_text(json.dumps([{"id": 1, "conversations": [human("a"), gpt("b")]}, {"id": 2}]))
    reader = read_conversations(root / "mix.json", image_root=None)
    assert next(reader).id == "1"
    with pytest.raises(DatasetError, match="record 1"):
        next(reader)


def test_questions_carry_task_and_answers(root: Path) -> None:
    first = {"question_id": 3, "image": "00001/7.jpg", "text": "<image>\nWhat?", "category": "colour"}
    second = {"question_id": "b", "text": "Is <image> a tag?"}
    answers = [{"question_id": "b", "answer": ["yes", "it is"]}, {"question_id": 3, "answer": "red"}]
    assert questions(root, first, second, answers=answers) == [
        Sample("3", ("00001_s7_djpg",), (Turn("user", "What?"),), "colour", ("red",), "q.jsonl"),
        Sample("b", (), (Turn("user", "Is <image> a tag?"),), "", ("yes", "it is"), "q.jsonl"),
    ]


@pytest.mark.parametrize(
    ("records", "answers", "message"),
    [
        ([{"question_id": 1, "text": "a"}] * 2, [{"question_id": 1, "answer": "a"}], r"q.jsonl, line 2 .*used before"),
        ([{"question_id": 1, "text": 5}], None, r"q.jsonl, line 1 .*\"text\" must be a string, got 5"),
        ([{"question_id": 1, "text": "a", "category": 5}], None, r"q.jsonl, line 1 .*\"category\" must be a string"),
        ([{"text": "a"}], None, r"q.jsonl, line 1 .*\"question_id\" must be"),
        ([{"question_id": 1, "text": "a", "image": "no.jpg"}], None, r"q.jsonl, line 1 .*'no.jpg' is not in"),
        ([{"question_id": 1, "text": "a"}], [], r"q.jsonl, line 1 .*no answer for it"),
        ([], [{"question_id": 1, "answer": "a"}], r"a.jsonl: answers question '1', which .*does not ask"),
        ([], [{"question_id": 1, "answer": "a"}] * 2, r"a.jsonl, line 2: .*answered twice"),
        ([], [{"question_id": 1, "answer": 3}], r"a.jsonl, line 1: \"answer\" must be"),
        ([], [{"question_id": True, "answer": "a"}], r"a.jsonl, line 1: \"question_id\" must be"),
    ],
)
def test_questions_and_answers_must_pair_up(root: Path, records: list, answers: list | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        questions(root, *records, answers=answers)


@pytest.mark.parametrize("read", [lambda path: read_conversations(path, image_root=None), read_questions])
def test_a_missing_data_file_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(DatasetError, match=r"blip\.json does not exist"):
        list(read(tmp_path / "blip.json"))


def test_ids_that_a_file_repeats_become_unique_and_are_kept(root: Path) -> None:
    """As llava_mme.jsonl and llava_textvqa_val_v051_ocr.jsonl do."""
    first, second = questions(root, {"question_id": "a/1.jpg", "text": "x"}, {"question_id": "a/1.jpg", "text": "y"})
    assert (from_id(first.id), dict(first.fields)) == ("a/1.jpg", {})
    assert (from_id(second.id), dict(second.fields)) == ("a/1.jpg#2", {"question_id": "a/1.jpg"})


def test_the_questions_that_llavas_script_makes_of_scienceqa(root: Path) -> None:
    said = [human("<image>\nWhich?\nA. x\nB. y"), gpt("The answer is B.")]
    records = [
        {"id": "4", "image": "00001/7.jpg", "conversations": said},
        {"id": "5", "conversations": [human("Why?")]},
    ]
    (root / "llava_test_CQM-A.json").write_text(json.dumps(records))
    first, second = read_questions(root / "llava_test_CQM-A.json", image_root=root / "images")
    assert first == Sample(
        "4", ("00001_s7_djpg",), (Turn("user", "Which?\nA. x\nB. y"),), source="llava_test_CQM-A.json"
    )
    assert (second.id, second.image_ids, second.turns) == ("5", (), (Turn("user", "Why?"),))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, 'it says <image> and has no "image"; give it one'),
        ({"img": "00001/7.jpg"}, 'it says <image> and has no "image"'),
    ],
)
def test_a_record_that_would_be_learnt_blind_is_refused(root: Path, fields: dict, message: str) -> None:
    record = {"id": 1, "conversations": [human("What?\n<image>"), gpt("A dog.")], **fields}
    with pytest.raises(DatasetError, match=rf"mix\.json, record 0 \(id 1\): {message}"):
        conversations(root, record)
    with pytest.raises(DatasetError, match=rf"q\.jsonl, line 1 .*: {message}"):
        questions(root, {"question_id": 1, "text": "<image> What?", **fields})


def test_text_alone_may_speak_of_files(root: Path) -> None:
    (sample,) = questions(root, {"question_id": 1, "text": "Which ends in .png", "category": "a.png"})
    assert sample.image_ids == ()


def test_an_image_under_another_name_is_refused(root: Path) -> None:
    record = {"id": 1, "conversations": [human("What?"), gpt("A dog.")], "img": "00001/7.jpg"}
    with pytest.raises(DatasetError, match=r"it has no 'image', but 'img' is '00001/7\.jpg'; call that 'image'"):
        conversations(root, record)


def test_files_of_nothing_or_of_another_kind_are_refused(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"mix\.json holds no records"):
        conversations(root)
    with pytest.raises(DatasetError, match=r"q\.jsonl holds no records"):
        questions(root)
    (root / "mix.json").write_bytes(b"PK\x03\x04")
    with pytest.raises(DatasetError, match=r"mix\.json is an Excel workbook or another zip archive"):
        list(read_conversations(root / "mix.json", image_root=root))
