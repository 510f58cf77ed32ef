"""The table of tokens holds what encode_sample gives, sample by sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memvp_data.samples import Sample, Turn, read_samples, write_samples
from memvp_data.text import encode_sample
from memvp_train.models.language import build_tokenizer
from memvp_train.training.token_cache import EncodedCounts, EncodedError, EncodedTable, write_encoded


def test_table_equals_encode_sample(tiny: Any, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tiny.language)
    settings = {"tokenizer": tokenizer, "template": "toyworld", "max_length": 12}
    write_encoded(tiny.samples, out=tmp_path / "table", key="k", **settings)
    table = EncodedTable(tmp_path / "table", key="k")
    expected = [encode_sample(sample, **settings) for sample in read_samples(tiny.samples)]
    assert list(table) == expected
    assert table[2:5] == expected[2:5]
    assert table.pad_token_id == tokenizer.pad_token_id
    assert table.image_ids == {name for one in expected if one is not None for name in one.image_ids}


def test_without_images_all_samples_are_text_only(tiny: Any, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tiny.language)
    write_encoded(tiny.samples, out=tmp_path / "t", key="k", tokenizer=tokenizer, template="toyworld", max_length=64)
    blind = EncodedTable(tmp_path / "t", key="k", with_images=False)
    assert {one.image_ids for one in blind} == {()}
    assert [one.input_ids for one in blind] == [one.input_ids for one in EncodedTable(tmp_path / "t", key="k")]


def test_samples_without_a_label_left_are_counted(tiny: Any, tmp_path: Path) -> None:
    short = Sample("short", (), (Turn("user", "red ?"), Turn("assistant", "no")))
    long = Sample("long", (), (Turn("user", "is it " * 20), Turn("assistant", "no")))
    write_samples(tmp_path / "s.parquet", [short, long])
    tokenizer = build_tokenizer(tiny.language)
    settings = {"out": tmp_path / "t", "tokenizer": tokenizer, "template": "toyworld", "key": "k"}
    assert write_encoded(tmp_path / "s.parquet", max_length=8, **settings) == EncodedCounts(1, 1)
    assert write_encoded(tmp_path / "s.parquet", max_length=6, **settings) == EncodedCounts(1, 1, num_shortened=1)
    assert EncodedTable(tmp_path / "t", key="k").counts.num_shortened == 1
    with pytest.raises(EncodedError, match="leaves no sample to train on: 2 have no label in 3 tokens"):
        write_encoded(tmp_path / "s.parquet", max_length=3, **settings)


@pytest.mark.faults
def test_table_of_other_settings_or_damaged_is_refused(tiny: Any, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tiny.language)
    path = tmp_path / "t"
    write_encoded(tiny.samples, out=path, key="k", tokenizer=tokenizer, template="toyworld", max_length=64)
    with pytest.raises(EncodedError, match="other samples or settings"):
        EncodedTable(path, key="other")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EncodedError, match="missing or damaged"):
        EncodedTable(path, key="k")


def test_every_weighted_answer_is_kept_and_drawn_from(tiny: Any, tmp_path: Path) -> None:
    turns = (Turn("user", "is it red ?"), Turn("assistant", "yes"))
    samples = [Sample(f"s{n}", (), turns, answers=("yes", "no"), answer_weights=(0.5, 0.25)) for n in range(30)]
    write_samples(tmp_path / "s.parquet", samples)
    tokenizer = build_tokenizer(tiny.language)
    settings = {"tokenizer": tokenizer, "template": "toyworld", "max_length": 64}
    assert write_encoded(tmp_path / "s.parquet", out=tmp_path / "t", key="k", **settings) == EncodedCounts(30, 0)
    table = EncodedTable(tmp_path / "t", key="k")
    rows = table.drawn_rows(np.arange(30), seed=0, epochs=np.zeros(30, np.int64))
    weights = [table.row(int(row), place=place).weight for place, row in enumerate(rows)]
    assert set(weights) == {0.5, 0.25}
    assert weights.count(0.5) > weights.count(0.25)
