import hashlib
import json

import pytest

from memvp_data.toyworld import ToyWorldConfig, images_in, write_toyworld
from memvp_data.toyworld.scenes import HELD_OUT_PAIRS
from memvp_data.toyworld.write import Scenes

SMALL = ToyWorldConfig(
    num_train_images=12,
    num_validation_images=4,
    num_test_images=5,
    num_unseen_images=4,
    num_text_only=6,
    num_text_only_test=5,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_toyworld(tmp_path_factory.mktemp("toy") / "raw", SMALL)


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_config_writes_the_same_bytes(written, tmp_path):
    again = write_toyworld(tmp_path / "raw", SMALL)
    assert digests(again) == digests(written)


def test_another_seed_writes_other_images_and_questions(written, tmp_path):
    other = digests(write_toyworld(tmp_path / "raw", ToyWorldConfig(**{**SMALL.__dict__, "seed": 1})))
    assert not set(other.values()) & set(digests(written).values())


def test_progress_counts_every_image(tmp_path):
    seen = []
    write_toyworld(tmp_path / "raw", SMALL, progress=seen.append)
    assert sum(seen) == images_in(SMALL) == len(list((tmp_path / "raw" / "images").rglob("*.jpg")))


def test_stage_files_have_llavas_layout(written):
    captions = json.loads((written / "blip_laion_cc_sbu_558k.json").read_text())
    assert len(captions) == SMALL.num_train_images
    assert set(captions[0]) == {"id", "image", "conversations"}
    assert captions[0]["conversations"][0]["value"].startswith("<image>\n")
    talks = json.loads((written / "llava_v1_5_mix665k.json").read_text())
    with_image = [talk for talk in talks if "image" in talk]
    assert len(with_image) == SMALL.num_train_images
    assert len(talks) - len(with_image) == SMALL.num_text_only
    for talk in talks:
        speakers = [turn["from"] for turn in talk["conversations"]]
        assert speakers == ["human", "gpt"] * SMALL.questions_per_image
        assert ("<image>" in talk["conversations"][0]["value"]) == ("image" in talk)


def test_splits_share_no_scene():
    scenes = Scenes(0)
    drawn = [scenes.draw(200, pairs=pairs) for pairs in ("seen", "seen", "unseen", "any")]
    assert len({scene for split in drawn for scene in split}) == 800


def test_no_training_text_about_images_names_a_held_out_pair(written):
    pairs = [f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS]
    talks = json.loads((written / "llava_v1_5_mix665k.json").read_text())
    talks += json.loads((written / "blip_laion_cc_sbu_558k.json").read_text())
    spoken = [turn["value"] for talk in talks if "image" in talk for turn in talk["conversations"]]
    assert not [text for text in spoken if any(pair in text for pair in pairs)]


def test_questions_answers_and_their_described_twins_belong_together(written):
    test = written / "test"
    for name in ("", "validation_", "unseen_", "text_", "described_"):
        questions, answers = jsonl(test / f"{name}questions.jsonl"), jsonl(test / f"{name}answers.jsonl")
        assert [q["question_id"] for q in questions] == [a["question_id"] for a in answers]
        assert all(("image" in q) == (name in ("", "validation_", "unseen_")) for q in questions)
    for plain, told in zip(jsonl(test / "questions.jsonl"), jsonl(test / "described_questions.jsonl"), strict=True):
        assert told["text"].endswith(" . " + plain["text"])
        assert told["question_id"] == plain["question_id"]


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="num_train_images must be at least 1, got 0"):
        ToyWorldConfig(num_train_images=0)
