"""A token table gives back what was added, opens without reading, and shows damage when it is opened."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from memvp_data.answers import drawn_answer
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.dataloader.mapped_columns import ColumnsWriter, open_columns
from memvp_data.dataloader.token_table import COLUMNS, TokenTable, TokenTableError, TokenTableWriter
from memvp_data.samples import Sample, Turn
from memvp_data.text import Encoded, encode_answers

SAMPLES = [
    [Encoded("a", (1, 5, 6), (-100, 5, 6), ("i1",))],
    [Encoded("b", (1, 7), (-100, 7), ())],
    [
        Encoded("ç", (1, 8, 9, 9), (-100, -100, 9, 9), ("i1",), 1.0),
        Encoded("ç", (1, 8, 4), (-100, -100, 4), ("i1",), 0.25),
    ],
    [Encoded("d", (2, 3), (-100, 3), ("i0",), 0.0)],
]


def written(path: Path, samples=SAMPLES, **metadata: str) -> TokenTable:
    with TokenTableWriter(path) as table:
        for answers in samples:
            table.add(answers)
        table.close(metadata)
    return TokenTable(path)


def test_what_was_added_comes_back(tmp_path: Path) -> None:
    table = written(tmp_path / "t", note="hello")
    assert list(table) == [answers[0] for answers in SAMPLES]
    assert table[-1] == SAMPLES[3][0]
    assert table[1:3] == [SAMPLES[1][0], SAMPLES[2][0]]
    assert table.row(3, place=2) == SAMPLES[2][1]
    assert table.image_numbers.tolist() == [0, -1, 0, 1]
    assert list(table.image_names()) == ["i1", "i0"]
    assert table.lengths(np.array([0, 2, 3])).tolist() == [3, 4, 3]
    assert table.num_labels(np.array([0, 2, 3])).tolist() == [2, 2, 1]
    assert (table.longest, table.metadata["note"]) == (4, "hello")
    with pytest.raises(IndexError):
        table[4]
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_any_safetensors_reader_reads_it(tmp_path: Path) -> None:
    written(tmp_path / "t")
    columns = load_file(tmp_path / "t")
    assert {name: column.dtype for name, column in columns.items()} == {
        n: np.dtype(kind) for n, kind in COLUMNS.items()
    }
    assert columns["input_ids"].tolist() == [1, 5, 6, 1, 7, 1, 8, 9, 9, 1, 8, 4, 2, 3]


def test_without_images_every_sample_is_text_only(tmp_path: Path) -> None:
    written(tmp_path / "t")
    table = TokenTable(tmp_path / "t", with_images=False)
    assert {one.image_ids for one in table} == {()}
    assert table.image_numbers.tolist() == [-1] * 4
    assert list(table.image_names()) == []
    assert table.digest != TokenTable(tmp_path / "t").digest


def test_the_same_samples_give_the_same_bytes_and_others_another_digest(tmp_path: Path) -> None:
    first, again = written(tmp_path / "1"), written(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert first.digest == again.digest
    for number, changed in enumerate(([*SAMPLES[:3]], [*SAMPLES[:3], [Encoded("e", (2, 3), (-100, 3), ("i0",), 0.0)]])):
        assert written(tmp_path / f"other{number}", changed).digest != first.digest


def test_another_process_gets_the_path_alone(tmp_path: Path) -> None:
    table = written(tmp_path / "t", [[Encoded(str(n), (1, *[n] * 50), (-100, *[n] * 50), ())] for n in range(500)])
    sent = pickle.dumps(table)
    assert len(sent) < 2000
    assert list(pickle.loads(sent)) == list(table)  # noqa: S301


@pytest.mark.faults
def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    written(path)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(TokenTableError, match="missing or damaged"):
            TokenTable(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(TokenTableError, match="its header says"):
        TokenTable(path)
    path.unlink()
    with pytest.raises(TokenTableError, match="missing or damaged"):
        TokenTable(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with ColumnsWriter(tmp_path / "c", columns={"numbers": np.int32, "flags": np.bool_}) as columns:
        columns.append("numbers", [1, 2])
        columns.append("flags", [True])
        columns.append("numbers", [3])
        columns.close({})
    found, metadata = open_columns(tmp_path / "c")
    assert found["numbers"].tolist() == [1, 2, 3]
    assert found["flags"].tolist() == [True]
    assert set(metadata) == {"digest"}
    with pytest.raises(TokenTableError, match="is not a token table of schema 3; write it again"):
        TokenTable(tmp_path / "c")


@pytest.mark.faults
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with TokenTableWriter(tmp_path / "t") as table:
            table.add(SAMPLES[0])
            table.add([])

    with pytest.raises(ValueError, match="one or more answers of one id and the same images"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_drawn_rows_are_the_drawn_answers(tmp_path: Path, character_tokenizer) -> None:
    scores = {"shoes": 1.0, "boots": 0.3, "hat": 0.0, "socks": 0.6}
    turns = (Turn("user", "What?"),)
    samples = [
        Sample(f"s{n}", (), turns, answers=tuple(scores), answer_weights=tuple(scores.values())) for n in range(20)
    ]
    settings = {"tokenizer": character_tokenizer, "template": "vicuna_v1", "max_length": 1000}
    encoded = [encode_answers(sample, **settings) for sample in samples]
    table = written(tmp_path / "t", encoded)
    batches = TrainingBatches(
        table, None, seed=4, global_batch_size=20, micro_batch_size=20, rank=0, world_size=1, pad_token_id=0,
        feature_shape=(1, 2),
    )  # fmt: skip
    counts = Counter[str]()
    for epoch in range(20):
        (batch,) = batches.at(epoch)
        assert batch.label_weights is not None
        for row, name in enumerate(batch.sample_ids):
            number = int(name[1:])
            answer, weight = drawn_answer(samples[number], seed=4, epoch=epoch, number=number)
            labels = [label for label in batch.labels[row].tolist() if label != -100]
            assert "".join(character_tokenizer.convert_ids_to_tokens(labels)) == f" {answer}</s>"
            assert batch.label_weights[row, 1] == np.float32(weight)
            counts[answer or ""] += 1
        assert batch.num_global_labels == int((batch.labels != -100).sum())
    assert set(counts) == {"shoes", "boots", "socks"}
    assert counts["shoes"] / 400 == pytest.approx(1 / 1.9, abs=0.1)  # 4 standard deviations
