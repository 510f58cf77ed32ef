"""`unpack-images` makes MMBench's folder complete."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from memvp_data.__main__ import main
from memvp_data.datasets.mmbench import FILES, read_mmbench


def test_every_split_that_is_there_is_unpacked(
    official: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = official("mmbench")
    shutil.rmtree(root / "images")
    assert main(["unpack-images", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{split}: 2 images in {root}/images/{split}" for split in ("dev", "test", "dev_en")
    ]
    assert len(list(read_mmbench(root, split="dev_en"))) == 6


def test_a_fault_is_one_line_and_exit_1(official: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = official("mmbench")
    (root / FILES["dev"]).write_text("index\n1\n")
    assert main(["unpack-images", str(root), "--split", "dev"]) == 1
    assert "there is no column 'question'; take the official file" in capsys.readouterr().err
    assert main(["unpack-images", str(root / "images")]) == 1
    assert "holds none of mmbench_dev_20230712.tsv" in capsys.readouterr().err
