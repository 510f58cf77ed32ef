"""`python -m memvp_data verify` says what is wrong, one line per fault, and its exit status agrees."""

import subprocess
import sys
from pathlib import Path

import pytest

from memvp_data.__main__ import main
from memvp_data.shards import write_shards


def test_a_sound_folder_and_then_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = ((f"k{number}", {"txt": bytes(600)}) for number in range(4))
    write_shards(tmp_path, records, kind="images", max_shard_samples=1)
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "sound: 4 shards, 4 samples, kind 'images'\n"
    (tmp_path / "images-00001.tar").unlink()
    (tmp_path / "images-00002.tar").write_bytes(b"")
    assert main(["verify", str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "images-00001.tar is missing" in first
    assert "images-00002.tar has 0 bytes instead of" in second


def test_the_module_runs_and_names_a_folder_that_is_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "memvp_data", "verify", str(tmp_path / "nothing")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout.count("\n") == 1
    assert "nothing has no manifest.json" in result.stdout
    assert result.stderr == ""
