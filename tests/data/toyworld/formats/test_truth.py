"""Every answer in every format is true of the scene that its picture shows, and the picture shows that scene."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from memvp_data.toyworld.formats.mme import SUFFIX
from memvp_data.toyworld.language import PLACES, vocabulary
from memvp_data.toyworld.scenes import COLOURS
from tests.data.toyworld.formats.worlds import OFFICIAL, captions, right_answer, samples, shown, truth, world


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("vqav2", "train"),
        ("vqav2", "val"),
        ("vqav2", "karpathy_test"),
        ("gqa", "train_val"),
        ("gqa", "testdev"),
        ("vqav2_vl_t5", "karpathy_val"),
        ("gqa_vl_t5", "train_valid"),
        ("gqa_vl_t5", "testdev"),
        ("pope", "test"),
        ("questions", "train.csv"),
        ("questions", "test.csv"),
    ],
)
def test_words(name, split):
    for sample in samples(name, split):
        assert right_answer(sample) == truth(shown(name, sample), sample.turns[0].text)


def test_mme_affirms_the_first_question_of_an_image_and_denies_the_second():
    asked = samples("mme", "test")
    assert [sample.answers for sample in asked] == [("Yes",), ("No",)] * (len(asked) // 2)
    for sample in asked:
        question = sample.turns[0].text.removesuffix(SUFFIX)
        assert sample.answers[0].lower() == truth(shown("mme", sample), question)


@pytest.mark.parametrize("split", ["dev", "dev_en"])
def test_mmbench_letters(split):
    for sample in samples("mmbench", split):
        chosen = json.loads(sample.fields["choices"])["ABCD".index(sample.answers[0])]
        assert chosen == truth(shown("mmbench", sample), sample.turns[0].text)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_scienceqa_is_answered_by_image_hint_or_question(split):
    for sample in samples("scienceqa", split):
        fields = sample.fields
        told = shown("scienceqa", sample) if sample.image_ids else fields["hint"]
        assert json.loads(fields["choices"])[int(fields["answer_index"])] == truth(told, fields["question"])


def test_what_stands_beside_an_image_of_scienceqa_is_true_but_no_answer():
    for sample in samples("scienceqa", "test"):
        if sample.image_ids:
            for said in filter(None, (sample.fields["caption"], sample.fields["hint"])):
                assert said in shown("scienceqa", sample).split(" ; ")
                assert " ".join(said.split()[2:]) not in sample.turns[0].text


def test_sqa_i_lists_the_options_of_the_problem():
    for sample in samples("sqa_i", "test"):
        *context, question = sample.turns[0].text.partition("\nA. ")[0].split("\n")
        told = shown("sqa_i", sample) if sample.image_ids else "".join(context).removeprefix("Context: ")
        assert json.loads(sample.fields["choices"])["ABCDE".index(sample.answers[0])] == truth(told, question)


@pytest.mark.parametrize(("name", "frames"), [("tvqa", "frames/tv"), ("how2qa", "frames/how2")])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_clip_shows_the_answer_while_it_is_asked_about(name, frames, split):
    for sample in samples(name, split):
        start, stop = (round(float(second) / 1.5) for second in sample.fields["ts"].split("-"))
        clip = f"{frames}/{sample.fields['vid_name']}"
        (told,) = {captions(name)[f"{clip}/{number:05d}.jpg"] for number in range(start + 1, stop + 1)}
        chosen = json.loads(sample.fields["choices"])[int(sample.answers[0][1:])]
        assert chosen == truth(told, sample.turns[0].text)


@pytest.mark.parametrize(
    ("name", "split"),
    [("llava_665k", "train"), ("messages", "messages.jsonl"), ("messages", "prompt_completion.jsonl")],
)
def test_talks(name, split):
    for sample in samples(name, split):
        first = sample.turns[0].text
        told = shown(name, sample) if sample.image_ids else first.split(" . ")[0]
        for asked, said in zip(sample.turns[::2], sample.turns[1::2], strict=True):
            assert said.text == truth(told, asked.text)


def test_captions_name_every_thing_in_some_order():
    for split in ("train", "val", "test"):
        for sample in samples("coco", split):
            for said in sample.answers:
                assert sorted(said.split(" ; ")) == sorted(shown("coco", sample).split(" ; "))
    for sample in samples("lcs_558k", "train"):
        assert sample.turns[1].text == shown("lcs_558k", sample)


@pytest.mark.parametrize(
    ("name", "split"),
    [("vqav2", "train"), ("gqa", "train"), ("coco", "train"), ("tvqa", "train"), ("pope", "test"), ("mmbench", "dev")],
)
def test_the_shipped_language_model_knows_every_word(name, split):
    known = set(vocabulary()) | {"a0", "a1", "a2", "a3", "a4", "D"}
    for sample in samples(name, split):
        options = json.loads(sample.fields.get("choices", "[]"))
        spoken = [turn.text for turn in sample.turns] + [*sample.answers, *options, sample.fields.get("hint", "")]
        assert set(" ".join(spoken).split()) <= known


def colours_in(picture: Image.Image) -> dict[str, str]:
    """Place -> colour of what stands out from the background there."""
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    stands_out = np.abs(pixels - np.median(pixels, axis=(0, 1))).sum(axis=2) > 100
    found = {}
    for place, name in enumerate(PLACES):
        rows, columns = slice(32 * (place // 3), 32 * (place // 3 + 1)), slice(32 * (place % 3), 32 * (place % 3 + 1))
        inside = pixels[rows, columns][stands_out[rows, columns]]
        if len(inside) > 40:
            colour = np.median(inside, axis=0)
            found[name] = min(COLOURS, key=lambda known: np.abs(colour - COLOURS[known]).sum())
    return found


@pytest.mark.parametrize("name", [*OFFICIAL, "messages", "questions"])
def test_pictures_show_what_the_scenes_file_tells(name):
    for image, told in list(captions(name).items())[-12:]:
        things = [phrase.split() for phrase in told.split(" ; ")]
        with Image.open(io.BytesIO((world(name) / image).read_bytes())) as picture:
            assert colours_in(picture) == {place: colour for place, _, colour, _ in things}
