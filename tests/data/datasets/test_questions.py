"""A folder of images and a CSV or JSON of questions become samples to score and to learn."""

import json
from pathlib import Path

import pytest

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.questions import Columns, read_questions, to_learn
from memvp_data.samples import Sample, Turn

HEADER = "image,question,answer\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images/shelf").mkdir(parents=True)
    (tmp_path / "images/shelf/1.png").write_bytes(b"any")
    return tmp_path


def questions(root: Path, name: str, content: str, **changes) -> list[Sample]:
    (root / name).write_text(content, encoding="utf-8")
    return list(read_questions(root / name, image_root=root / "images", **changes))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", HEADER + 'shelf/1.png,"How many, please?",3\n,Why?,\n'),
        ("q.tsv", "question\tanswer\timage\nHow many, please?\t3\tshelf/1.png\nWhy?\t\t\n"),
        ("q.json", '[{"image": "shelf/1.png", "question": "How many, please?", "answer": "3"}, {"question": "Why?"}]'),
        ("q.jsonl", '{"image": "shelf/1.png", "question": "How many, please?", "answer": ["3"]}\n{"question": "Why?"}'),
    ],
)
def test_every_kind_of_file_gives_the_same_samples(root: Path, name: str, content: str) -> None:
    assert questions(root, name, content) == [
        Sample("0", ("shelf_s1_dpng",), (Turn("user", "How many, please?"),), answers=("3",), source=name),
        Sample("1", (), (Turn("user", "Why?"),), source=name),
    ]


def test_columns_may_have_other_names(root: Path) -> None:
    columns = Columns(image="file", question="frage", answer="antwort", id="nr", task="art")
    content = "nr,frage,antwort,art,file,note\n7,Was?,Hund,tier,shelf/1.png,x\n"
    (sample,) = questions(root, "q.csv", content, columns=columns)
    assert sample == Sample("7", ("shelf_s1_dpng",), (Turn("user", "Was?"),), "tier", ("Hund",), "q.csv")


def test_without_an_image_root_a_table_needs_no_images(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("question\nWho?\n")
    (sample,) = read_questions(tmp_path / "q.csv", image_root=None)
    assert sample.image_ids == ()


def test_the_first_answer_is_learnt(root: Path) -> None:
    content = json.dumps([{"question": "Who?", "answer": ["Ann", "Anna"]}])
    (sample,) = to_learn(questions(root, "q.json", content))
    assert sample.turns == (Turn("user", "Who?"), Turn("assistant", "Ann"))
    assert sample.answers == ("Ann", "Anna")
    with pytest.raises(DatasetError, match=r"q\.csv: question '0' has no answer to learn"):
        list(to_learn(questions(root, "q.csv", HEADER + ",Why?,\n")))


def test_an_answer_missing_names_its_line(root: Path) -> None:
    content = HEADER + ",Why?,so\n,Why not?, \n"
    assert [sample.answers for sample in questions(root, "q.csv", content)] == [("so",), ()]
    with pytest.raises(DatasetError, match=r"q\.csv, line 3: question '1' has no answer to learn"):
        questions(root, "q.csv", content, needs_answer=True)


def test_text_alone_may_speak_of_files(root: Path) -> None:
    """An empty image is said to be none, and words may end like a file."""
    (sample,) = questions(root, "q.csv", "image,question,answer,origin\n,Which ends in .png?,b.png,scan.jpg\n")
    assert (sample.image_ids, sample.answers) == ((), ("b.png",))
    (sample,) = questions(root, "q.json", '[{"question": "Is it a.png", "answer": "b.jpg", "task": "x.png"}]')
    assert sample.image_ids == ()


def test_numbers_are_answers(root: Path) -> None:
    content = json.dumps([{"question": "How many?", "answer": 3}, {"question": "And here?", "answer": [2, "two", 2.5]}])
    assert [sample.answers for sample in questions(root, "q.json", content)] == [("3",), ("2", "two", "2.5")]


def test_suffixes_may_be_large(root: Path) -> None:
    assert len(questions(root, "q.CSV", HEADER + ",Who?,Ann\n")) == 1


def test_questions_that_are_there_again_are_told(root: Path) -> None:
    content = HEADER + ",Who?,Ann\n,Who?,Ben\n,Who?,Ann\n"
    with pytest.warns(UserWarning, match=r"q\.csv: 1 questions are there again under other ids"):
        assert len(questions(root, "q.csv", content)) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", HEADER + "no.png,Who?,Ann\n", r"q\.csv, line 2: image 'no.png' is not in .*images"),
        ("q.csv", HEADER + "../q.csv,Who?,Ann\n", r"q\.csv, line 2: name '../q.csv' could leave its folder"),
        ("q.csv", "image,Question\nx,Who?\n", r"q\.csv, line 2: there is no column 'question' among \['image', 'Ques"),
        (
            "q.csv",
            "file,question\nx,Who?\n",
            r"q\.csv, line 2: there is no column 'image' among \['file', 'question'\]",
        ),
        ("q.csv", "id,image,question\n1,,a\n1,,b\n", r"q\.csv, line 3: this id '1' was used before"),
        ("q.csv", "question,image\n" + "x" * 2_000_000 + ",\n", r"line 2: \"question\" has 2,000,000 characters"),
        ("q.json", '[{"question": 3}]', r"q\.json, record 0: \"question\" must be a string, got 3"),
        ("q.json", '[{"question": "a", "answer": []}]', r"record 0: \"answer\" must be a list of strings, got \[\]"),
        ("q.json", '[{"question": "a", "answer": [true]}]', r"record 0: each of \"answer\" must be a string"),
        ("q.csv", HEADER, r"q\.csv has no rows below its first line"),
        ("q.csv", HEADER + ",  ,yes\n", r"q\.csv, line 2: its 'question' is empty"),
        ("q.csv", "image;question;answer\n;Who?;Ann\n", r"its first line has no ',' but ';'; save it with ','"),
        ("q.csv", "image\tquestion\n\tWho?\n", r"has no ',' but '\\t'; .* or call it \.tsv"),
        ("q.csv", HEADER + ',Who?,"Ann\n,a,b\n,c,d\n', r"line \d: not a row .* in the row that begins in line 2; mend"),
        ("q.csv", "PK\x03\x04", r"q\.csv is an Excel workbook or another zip archive; save its sheet as CSV"),
        ("q.xlsx", "x", r"q\.xlsx: expected a file of the kinds \.csv, \.tsv, \.json, \.jsonl, \.ndjson"),
        ("q.parquet", "PAR1", r"q\.parquet is a Parquet file; write its rows"),
        ("q.txt", "question\n", r"q\.txt: expected a file of the kinds"),
        ("q.json", "[]", r"q\.json holds no records"),
        ("q.jsonl", "\n", r"q\.jsonl holds no records"),
        ("q.json", '[{"question": "a", "img": "x.jpg"}]', r"record 0: it has no 'image', but 'img' is 'x.jpg'"),
        ("q.json", '[{"question": "a", "image": 7}]', r"record 0: \"image\" must be a string"),
        ("q.jsonl", '{"question": "\\ud800"}', r"q\.jsonl, line 1: text .*surrogate"),
    ],
)
def test_a_bad_row_is_named(root: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        questions(root, name, content)
