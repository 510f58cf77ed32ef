"""The official readers find in every format what was written: counts, ids, images, fields and order."""

import json
from collections import Counter

import numpy as np
import pytest

from memvp_data.datasets.check import check_dataset
from memvp_data.datasets.frames import frame_records, load_frames
from memvp_data.datasets.mme import TASKS
from memvp_data.datasets.table import DATASETS, find_dataset
from memvp_data.features import FeatureStore
from memvp_data.shards import write_shards
from memvp_data.toyworld.formats import FORMATS
from tests.data.toyworld.formats.worlds import CONFIG, OFFICIAL, samples, world

N, FEW = CONFIG.num_images, CONFIG.num_test_images
NUM_SAMPLES = {
    ("vqav2", "train"): 3 * N,
    ("vqav2", "val"): 9 * FEW,
    ("vqav2", "test"): 3 * FEW,
    ("vqav2", "test-dev"): 3 * (FEW // 2),
    ("vqav2", "karpathy_train"): 3 * (N + FEW),
    ("vqav2", "karpathy_val"): 3 * FEW,
    ("vqav2", "karpathy_test"): 3 * FEW,
    ("gqa", "train"): 5 * N,
    ("gqa", "val"): 5 * FEW,
    ("gqa", "train_val"): 5 * (N + FEW),
    ("gqa", "testdev"): 5 * FEW,
    ("gqa", "test"): 5 * FEW,
    ("gqa", "challenge"): 5 * FEW,
    ("vqav2_vl_t5", "karpathy_train"): 3 * (N + FEW),
    ("vqav2_vl_t5", "karpathy_val"): 3 * FEW,
    ("vqav2_vl_t5", "karpathy_test"): 3 * FEW,
    ("gqa_vl_t5", "train"): 5 * N,
    ("gqa_vl_t5", "valid"): 5 * FEW,
    ("gqa_vl_t5", "train_valid"): 5 * (N + FEW),
    ("gqa_vl_t5", "testdev"): 5 * FEW,
    ("coco", "train"): 5 * (N + FEW),
    ("coco", "val"): FEW,
    ("coco", "test"): FEW,
    ("scienceqa", "train"): 2 * N,
    ("scienceqa", "val"): 2 * FEW,
    ("scienceqa", "test"): 2 * FEW,
    ("scienceqa", "trainval"): 2 * (N + FEW),
    ("scienceqa", "minitrain"): 4,
    ("scienceqa", "minival"): 4,
    ("scienceqa", "minitest"): 4,
    ("sqa_i", "test"): 2 * FEW,
    ("lcs_558k", "train"): N,
    ("llava_665k", "train"): N + 1,
    ("tvqa", "train"): N,
    ("tvqa", "val"): FEW,
    ("tvqa", "test_public"): FEW,
    ("how2qa", "train"): N,
    ("how2qa", "val"): FEW,
    ("how2qa", "test_public"): FEW,
    ("mme", "test"): 14 * 2 * FEW,
    ("mme", "perception"): 10 * 2 * FEW,
    ("mme", "cognition"): 4 * 2 * FEW,
    ("pope", "adversarial"): 6 * FEW,
    ("pope", "popular"): 6 * FEW,
    ("pope", "random"): 6 * FEW,
    ("pope", "test"): 18 * FEW,
    ("messages", "messages.jsonl"): N,
    ("messages", "prompt_completion.jsonl"): N,
    ("questions", "train.csv"): 6 * N,
    ("questions", "test.csv"): 6 * FEW,
}


def test_every_format_has_a_reader_and_every_split_a_count():
    assert set(OFFICIAL) <= set(DATASETS)
    expected = {(name, split) for name in OFFICIAL if name != "mmbench" for split in DATASETS[name].splits}
    assert expected <= set(NUM_SAMPLES)


@pytest.mark.parametrize(("name", "split"), NUM_SAMPLES)
def test_counts_and_ids(name, split):
    read = samples(name, split)
    assert len(read) == NUM_SAMPLES[name, split]
    assert len({sample.id for sample in read}) == len(read)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_check_command_misses_nothing_but_the_official_size(name):
    world(name)
    lines, faults = check_dataset(name, world(name))
    assert len(lines) == len(find_dataset(name).splits)
    assert [fault for fault in faults if " instead of " not in fault] == []


@pytest.mark.parametrize("name", OFFICIAL)
def test_no_picture_is_in_two_splits_that_are_trained_and_tested_on(name):
    splits = find_dataset(name).splits
    trained = {
        image for split in splits if "train" in split for sample in samples(name, split) for image in sample.image_ids
    }
    tested = {
        image for split in splits if "test" in split for sample in samples(name, split) for image in sample.image_ids
    }
    assert not trained & tested


def test_vqav2_ids_and_types():
    for sample in samples("vqav2", "val"):
        number = int(sample.image_ids[0].rpartition("_u")[2].removesuffix("_djpg"))
        assert int(sample.id) // 1000 == number
        kind, asked = sample.fields["answer_type"], sample.turns[0].text
        assert kind == ("number" if "many" in asked else "other" if asked.startswith("what") else "yes/no")
        assert asked.startswith(sample.fields["question_type"] + " ")


def test_vqav2_annotators_mostly_agree():
    sizes = [Counter(sample.answers).most_common(1)[0][1] for sample in samples("vqav2", "val")]
    assert min(sizes) >= 7
    assert {10} < set(sizes)


def test_the_folder_of_vqav2_is_one_of_coco():
    assert len(list(find_dataset("coco").read(world("vqav2"), split="test"))) == FEW


@pytest.mark.parametrize("split", ["karpathy_train", "karpathy_test"])
def test_vl_t5_asks_what_vqav2_asks(split):
    for plain, derived in zip(
        find_dataset("vqav2").read(world("vqav2_vl_t5"), split=split), samples("vqav2_vl_t5", split), strict=True
    ):
        assert (plain.id, plain.image_ids, plain.turns, plain.fields) == (
            derived.id, derived.image_ids, derived.turns, derived.fields
        )  # fmt: skip
        assert sorted(plain.answers) == sorted(derived.answers)
        assert dict(zip(plain.answers, plain.answer_weights, strict=False)) == dict(
            zip(derived.answers, derived.answer_weights, strict=False)
        )


def test_gqa_has_every_structural_type_and_hides_test_answers():
    assert {sample.fields["structural"] for sample in samples("gqa", "testdev")} == {
        "query", "verify", "choose", "compare", "logical"
    }  # fmt: skip
    assert {sample.answers for split in ("test", "challenge") for sample in samples("gqa", split)} == {()}


def test_scienceqa_has_images_and_hints_in_every_combination():
    read = samples("scienceqa", "test")
    assert {(bool(s.image_ids), s.fields["has_hint"]) for s in read[:4]} == {
        (with_image, has_hint) for with_image in (True, False) for has_hint in ("true", "false")
    }
    assert len({sample.fields["subject"] for sample in read}) == 3


def test_sqa_i_asks_the_test_split_of_the_problems_beside_it():
    problems = find_dataset("scienceqa").read(world("sqa_i"), split="test")
    for asked, problem in zip(samples("sqa_i", "test"), problems, strict=True):
        assert (asked.id, asked.image_ids, asked.answers) == (problem.id, problem.image_ids, problem.answers)


@pytest.mark.parametrize(("name", "folder", "num_choices"), [("tvqa", "tv", 5), ("how2qa", "how2", 4)])
def test_clips_have_rows_of_features_for_their_frames(name, folder, num_choices):
    lengths = []
    for sample in samples(name, "train"):
        clip = sample.fields["vid_name"]
        rows = load_frames(world(name) / f"vis_features/{folder}/clip-vit/{clip}.npz")
        num_frames = len(list((world(name) / f"frames/{folder}/{clip}").iterdir()))
        assert rows.shape == (64, 512)
        assert rows.dtype == np.float16
        assert np.count_nonzero(rows.any(axis=1)) == min(num_frames, 64)
        assert len(set(json.loads(sample.fields["choices"]))) == num_choices
        lengths.append(num_frames)
    assert max(lengths) > 64 > min(lengths)


def test_clips_become_feature_shards(tmp_path):
    clips = sorted(sample.image_ids[0] for sample in samples("how2qa", "train"))
    frames = world("how2qa") / "vis_features/how2/clip-vit"
    write_shards(tmp_path, frame_records(clips, folder=frames), kind="features", meta={"dtype": "float16"})
    features = FeatureStore(tmp_path).load(clips)
    assert features.shape == (N, 64, 512)
    assert features.any(dim=2).sum(dim=1).max() == 64
    assert 0.05 < features[0, 0, :507].mean() < 0.9


def test_tvqa_hides_test_answers_and_one_question_has_no_time():
    read = samples("tvqa", "test_public")
    assert {sample.answers for sample in read} == {()}
    assert [sample.fields["ts"] == "NaN-NaN" for sample in read] == [False] * (FEW - 1) + [True]


def test_mme_has_both_layouts_of_folders():
    split_up = [task for task in TASKS if (world("mme") / task / "questions_answers_YN").is_dir()]
    assert split_up == ["posters", "celebrity", "scene", "landmark", "artwork"]
    assert {sample.fields["subtask"] for sample in samples("mme", "test")} == set(TASKS)


@pytest.mark.parametrize("split", ["dev", "test", "dev_en", "test_en"])
def test_mmbench_rotates_the_options_and_moves_the_letter(split):
    questions: dict[str, list] = {}
    for sample in samples("mmbench", split):
        questions.setdefault(sample.fields["index"], []).append(sample)
    assert len(questions) == FEW
    for index, rows in questions.items():
        choices = json.loads(rows[0].fields["choices"])
        assert [int(row.id) for row in rows] == [int(index) + turn * 1_000_000 for turn in range(len(choices))]
        for turn, row in enumerate(rows):
            assert json.loads(row.fields["choices"]) == choices[turn:] + choices[:turn]
            assert bool(row.answers) == split.startswith("dev")
            if row.answers:
                first = choices["ABCD".index(rows[0].answers[0])]
                assert row.answers == ("ABCD"[json.loads(row.fields["choices"]).index(first)],)


def test_pope_asks_three_times_yes_and_no_about_each_image():
    for part in ("adversarial", "popular", "random"):
        read = samples("pope", part)
        assert Counter((s.image_ids, s.answers[0]) for s in read).most_common()[-1][1] == 3
        assert len({(s.image_ids, s.turns[0].text) for s in read}) == len(read)
    adversarial = [s for s in samples("pope", "adversarial") if s.answers == ("no",)]
    assert {s.turns[0].text for s in adversarial} != {
        s.turns[0].text for s in samples("pope", "random") if s.answers == ("no",)
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_can_be_opened_as_utf8_or_as_an_image(name):
    suffixes = {path.suffix for path in world(name).rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".csv", ".tsv", ".txt", ".jpg", ".png", ".npz"}
