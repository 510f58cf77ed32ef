from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.toyworld.draw import IMAGE_SIZE, draw_scene
from memvp_data.toyworld.language import (
    ASK,
    NUMBERS,
    PLACES,
    READING,
    TASKS,
    ask,
    caption,
    holds,
    vocabulary,
)
from memvp_data.toyworld.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, Thing, sample_scene

seeds = st.integers(0, 2**32)


@given(seeds, st.sampled_from(("seen", "unseen", "any")))
def test_a_scene_keeps_its_promises(seed, pairs):
    scene = sample_scene(Random(seed), pairs=pairs)
    held_out = [thing for thing in scene.things if thing.pair in HELD_OUT_PAIRS]
    assert 3 <= len(scene.things) <= 6
    assert len({thing.place for thing in scene.things}) == len(scene.things)
    assert len({thing.pair for thing in scene.things}) == len(scene.things)
    assert [t.place for t in scene.things] == sorted(t.place for t in scene.things)
    assert pairs == "any" or bool(held_out) == (pairs == "unseen")


def answer_from_caption(told: str, question: str) -> str:
    """An independent reader: answers from the words of the caption alone, by string handling."""
    things = [dict(zip(("place", "size", "colour", "shape"), part.split(), strict=True)) for part in told.split(" ; ")]
    words = question.split()

    def find(colour: str, shape: str) -> dict[str, str]:
        (thing,) = [t for t in things if (t["colour"], t["shape"]) == (colour, shape)]
        return thing

    if words[:2] == ["how", "many"]:
        kind = "colour" if words[3] == "things" else "shape"
        return NUMBERS[sum(t[kind] == words[2] for t in things)]
    if words[:3] == ["is", "there", "a"]:
        return "yes" if any((t["colour"], t["shape"]) == (words[3], words[4]) for t in things) else "no"
    if "bigger" in words:
        sizes = [find(*words[i : i + 2])["size"] for i in (2, 7)]
        return "yes" if sizes == ["big", "small"] else "no"
    if words[0] == "is":
        first, second = find(*words[2:4]), find(*words[-3:-1])
        axis = divmod if "above" in words or "below" in words else lambda a, b: divmod(a, b)[::-1]
        a, b = (axis(PLACES.index(t["place"]), 3)[0] for t in (first, second))
        return "yes" if (a < b if "left" in words or "above" in words else a > b) else "no"
    asked = words[1]
    known = words[words.index("is") + 1 : words.index("?")]
    kind, value = ("place", known[1]) if known[0] == "at" else ("shape", known[1])
    if known[-1] == "thing":
        kind = "colour"
    (found,) = [t[asked] for t in things if t[kind] == value]
    options = words[words.index("?") + 1 :]
    return options[options.index(found) - 1] if options else found


@pytest.mark.parametrize("task", TASKS)
@given(seed=seeds)
def test_every_answer_follows_from_the_caption(task, seed):
    rng = Random(seed)
    scene = sample_scene(rng)
    question = ask(rng, scene, task=task)
    assert question.answer == answer_from_caption(caption(scene, order=rng), question.text)


@pytest.mark.parametrize("task", TASKS)
def test_guessing_the_commonest_answer_gains_little(task):
    rng = Random(0)
    answers = []
    while len(answers) < 2000:
        question = ASK[task](rng, sample_scene(rng))
        if question is not None:
            answers.append(question.answer)
    commonest = max(answers.count(answer) for answer in set(answers)) / len(answers)
    assert commonest < {"colour": 0.2, "shape": 0.27, "count": 0.42, "choice": 0.4}.get(task, 0.56)


@given(seeds)
def test_the_vocabulary_is_complete(seed):
    rng, known = Random(seed), set(vocabulary())
    scene = sample_scene(rng)
    for question in (f(rng, scene) for f in (ASK | READING).values()):
        if question is not None:
            assert set(f"{question.text} {question.answer}".split()) <= known


@given(seeds)
def test_held_out_pairs_stay_out_of_seen_questions_and_lead_unseen_ones(seed):
    rng = Random(seed)
    pairs = {f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS}
    for policy in ("seen", "unseen"):
        scene = sample_scene(rng, pairs=policy)
        for task in TASKS:
            question = ask(rng, scene, task=task, held_out=policy)
            named = any(pair in question.text for pair in pairs) or any(
                thing.pair in HELD_OUT_PAIRS for thing in question.about
            )
            assert named == (policy == "unseen") or question.task == "count"


def test_relations_are_strict_and_look_at_one_axis():
    low_left, high_right = Thing("red", "star", "big", 6), Thing("blue", "star", "big", 2)
    assert holds("left of", low_left, high_right)
    assert holds("below", low_left, high_right)
    assert not holds("right of", low_left, high_right)
    assert not holds("above", low_left, high_right)
    assert not holds("left of", low_left, low_left)


def test_pixels_repeat_with_the_seed_and_differ_without():
    scene = sample_scene(Random(3))
    draw = lambda seed: np.asarray(draw_scene(scene, np.random.default_rng(seed)))  # noqa: E731
    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).mean() > 0.9
    assert draw(1).shape == (IMAGE_SIZE, IMAGE_SIZE, 3)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_drawn_in_its_colour_at_its_place(colour, shape):
    """The median pixel around the centre of the place is the thing's colour; elsewhere the background is dark."""
    for place in (0, 4, 7):
        picture = np.asarray(draw_scene(Scene((Thing(colour, shape, "big", place),)), np.random.default_rng(place)))
        y, x = 32 * (place // 3) + 16, 32 * (place % 3) + 16
        found = np.median(picture[y - 4 : y + 5, x - 4 : x + 5].reshape(-1, 3), axis=0)
        nearest = min(COLOURS, key=lambda name: np.abs(found - COLOURS[name]).sum())
        assert nearest == colour
