"""The check command: what was found against what was expected, exit 1 at a fault."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memvp_data.__main__ import main
from memvp_data.datasets import check, table
from memvp_data.datasets.check import check_dataset
from memvp_data.datasets.table import DATASETS, Split, find_dataset, find_split
from tests.data.datasets.official import WRITERS


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces what one split is expected to hold."""

    def expect(name: str, split: str, expected: Split) -> None:
        dataset = DATASETS[name]
        rows = {**DATASETS, name: replace(dataset, splits={split: expected})}
        monkeypatch.setattr(table, "DATASETS", rows)
        monkeypatch.setattr(check, "DATASETS", rows)

    return expect


def test_a_sound_split_is_one_line_and_exit_0(
    official: Callable[[str], Path], small: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    small("pope", "random", Split(("coco_pope_random.json",), (4,), 1))
    assert main(["check", "pope", str(official("pope"))]) == 0
    assert capsys.readouterr().out == (
        "random: 4 samples (4 expected), 0 without image; 1 images of 1, 1 of them in their place\n"
    )


def test_counts_folders_and_missing_images_are_faults(
    official: Callable[[str], Path], small: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    root = official("llava_665k")
    folders = {"coco/train2017": 1, "vg": 3, "ocr_vqa/images": 1, "": 2}
    small("llava_665k", "train", Split(("llava_v1_5_mix665k.json",), (9,), folders=folders))
    (root / "ocr_vqa/images/0140.jpg").unlink()
    assert main(["check", "llava_665k", str(root)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "train: 7 samples (9 expected), 1 without image; 6 images, 5 of them in their place",
        "fault: train: 7 samples instead of 9; take the official, whole file",
        "fault: train: 2 samples with an image in vg instead of 3; take the official file",
        "fault: train: 1 samples without image instead of 2; take the official file",
        "fault: train: 1 images are not in the root ('ocr_vqa/images/0140.jpg'); "
        "some of ocr_vqa can no longer be downloaded; take those records out of the file",
    ]


def test_a_part_of_a_dataset_is_held_to_no_counts(
    official: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = official("llava_665k")
    assert main(["check", "llava_665k", str(root), "--part"]) == 0
    out = "train: 7 samples, 1 without image; 6 images, 6 of them in their place\n"
    assert capsys.readouterr().out == out
    (root / "vg/VG_100K/1.jpg").unlink()
    assert main(["check", "llava_665k", str(root), "--part"]) == 1
    assert "fault: train: 1 images are not in the root ('vg/VG_100K/1.jpg')" in capsys.readouterr().out


def test_a_bad_record_is_a_fault(changed: Callable[..., Path]) -> None:
    root = changed("pope", file="coco_pope_random.json", at=(1, "label"), to="maybe")
    lines, faults = check_dataset("pope", root, split="random")
    assert lines[0].startswith("random: 1 samples")
    assert faults == [
        "random: coco_pope_random.json, line 2 (question_id 2): \"label\" must be one of yes, no, got 'maybe'"
    ]


def test_splits_that_are_not_there_are_not_asked_for(official: Callable[[str], Path]) -> None:
    root = official("vqav2")
    (root / "v2_mscoco_train2014_annotations.json").unlink()
    for subset in ("train2014", "test2015", "test-dev2015"):
        (root / f"v2_OpenEnded_mscoco_{subset}_questions.json").unlink()
    (root / "dataset_coco.json").unlink()
    lines, _ = check_dataset("vqav2", root)
    assert [line.split(":")[0] for line in lines] == ["val"]
    _, faults = check_dataset("vqav2", root, split="train")
    assert faults[0].startswith("train: v2_OpenEnded_mscoco_train2014_questions.json is not in ")


def test_a_file_that_belongs_to_no_whole_split_is_explained(official: Callable[[str], Path]) -> None:
    root = official("vqav2")
    (root / "v2_mscoco_val2014_annotations.json").unlink()
    _, faults = check_dataset("vqav2", root)
    assert any(fault.startswith("val: v2_mscoco_val2014_annotations.json is not in ") for fault in faults)


def test_an_empty_folder_and_unknown_names_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "pope", str(tmp_path)]) == 1
    assert "holds none of the files of pope; expected some of coco_pope_adversarial.json" in capsys.readouterr().out
    assert main(["check", "pope", str(tmp_path), "--split", "hard"]) == 2
    assert "unknown split 'hard'; known: adversarial, popular, random, test" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check", "imagenet", str(tmp_path)])
    with pytest.raises(ValueError, match="unknown dataset 'imagenet'; known: vqav2, gqa"):
        find_dataset("imagenet")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        find_split(DATASETS["gqa"], "dev")


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_reads_its_splits_and_names_its_files(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    dataset = DATASETS[name]
    for split, expected in dataset.splits.items():
        if not all((tmp_path / file).exists() for file in expected.files):
            assert (name, split) in {("gqa", "challenge"), ("mmbench", "test_en")}
            continue
        samples = list(dataset.read(tmp_path, split=split))
        assert samples
        assert len({sample.id for sample in samples}) == len(samples)
        assert samples == list(dataset.read(tmp_path, split=split, check_images=False))
        if not split.startswith(("test", "challenge")):
            assert all(sample.answers or name in ("lcs_558k", "llava_665k") for sample in samples)


def test_published_counts_add_up() -> None:
    counts = {name: split.num_samples for name, split in DATASETS["vqav2"].splits.items()}
    karpathy = sum(counts[f"karpathy_{part}"][0] for part in ("train", "val", "test"))
    assert karpathy == counts["train"][0] + counts["val"][0] == 658_111
    gqa = DATASETS["gqa"].splits
    assert gqa["train_val"].num_samples[0] == gqa["train"].num_samples[0] + gqa["val"].num_samples[0]
    mix = DATASETS["llava_665k"].splits["train"]
    assert sum(mix.folders.values()) == mix.num_samples[0]
