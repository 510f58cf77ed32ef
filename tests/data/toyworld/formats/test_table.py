"""Writing a format: the same bytes from the same seed, nothing overwritten, mistakes in one sentence."""

import hashlib

import pytest

from memvp_data.__main__ import main
from memvp_data.toyworld.formats import FORMATS, FormatConfig, write_format

TINY = FormatConfig(num_images=1, seed=5)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ["vqav2", "scienceqa", "how2qa", "mmbench", "messages", "questions"])
def test_the_same_seed_writes_the_same_bytes(name, tmp_path):
    assert digests(write_format(name, tmp_path / "a", TINY)) == digests(write_format(name, tmp_path / "b", TINY))


def test_another_seed_and_another_format_draw_other_pictures(tmp_path):
    worlds = [("pope", 5), ("pope", 6), ("coco", 5)]
    written = [
        digests(write_format(name, tmp_path / f"{name}{seed}", FormatConfig(num_images=1, seed=seed)))
        for name, seed in worlds
    ]
    pictures = [{value for name, value in files.items() if name.endswith(".jpg")} for files in written]
    assert len(set.union(*pictures)) == sum(map(len, pictures)) > 3


def test_the_command_writes_a_folder(tmp_path, capsys):
    assert main(["toyworld", "pope", str(tmp_path / "pope"), "--images", "4", "--seed", "5"]) == 0
    assert f"7 files in {tmp_path / 'pope'}" in capsys.readouterr().out
    assert digests(tmp_path / "pope") == digests(write_format("pope", tmp_path / "again", TINY))


def test_nothing_is_replaced(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["toyworld", "pope", str(tmp_path)]) == 2
    assert main(["toyworld", "pope", str(tmp_path / "mine.txt")]) == 2
    assert capsys.readouterr().err.count("is not an empty folder; name a new one, nothing is ever replaced\n") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (write_format("pope", tmp_path / "empty", TINY) / "scenes.jsonl").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_world_that_fails_half_way_leaves_no_folder(tmp_path, monkeypatch):
    def fail(album):
        album.picture("one.jpg")
        raise OSError("full")

    monkeypatch.setitem(FORMATS, "pope", fail)
    with pytest.raises(OSError, match="full"):
        write_format("pope", tmp_path / "pope", TINY)
    assert not (tmp_path / "pope").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "a toy world needs at least 1 image, got 0\n"),
        (["--seed", "-1"], "the seed of a toy world must be 0 or more, got -1\n"),
    ],
)
def test_impossible_settings_are_refused(arguments, message, tmp_path, capsys):
    assert main(["toyworld", "pope", str(tmp_path / "pope"), *arguments]) == 2
    assert capsys.readouterr().err == message


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no format 'vqa'; known: vqav2, gqa"):
        write_format("vqa", tmp_path / "x", TINY)
