"""Questions of the toy world as benchmarks need them: with wrong answers, options, or as a claim to confirm or deny."""

from random import Random

from memvp_data.toyworld.language import NUMBERS, Question, ask, phrase
from memvp_data.toyworld.scenes import COLOURS, SHAPES, Scene, Thing

PLAIN_TASKS = ("colour", "shape", "count", "exist", "compare", "spatial")
"""The tasks whose answer is a word and not a letter."""
YES_NO = ("yes", "no")
_WORDS: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "shape": SHAPES, "count": NUMBERS}


def plain(rng: Random, scene: Scene, *, task: str) -> Question:
    """A question of ``task``, or of another plain task when the scene has none that fits."""
    while True:
        question = ask(rng, scene, task=task, held_out="seen")
        if question.task in PLAIN_TASKS:
            return question


def exactly(rng: Random, scene: Scene, *, tasks: tuple[str, ...]) -> Question:
    """A question of one of ``tasks``; every scene must have one."""
    while True:
        question = ask(rng, scene, task=rng.choice(tasks), held_out="seen")
        if question.task in tasks:
            return question


def wrong_answers(question: Question) -> list[str]:
    """The other words of the kind that is asked for."""
    return [word for word in _WORDS.get(question.task, YES_NO) if word != question.answer]


def options(rng: Random, question: Question, *, most: int) -> list[str]:
    """The answer among wrong ones, shuffled: as many as there are, at most ``most``."""
    wrong = wrong_answers(question)
    chosen = [question.answer, *rng.sample(wrong, min(most - 1, len(wrong)))]
    rng.shuffle(chosen)
    return chosen


def claim(rng: Random, scene: Scene, *, task: str, truth: bool) -> str:
    """A question that is answered yes if ``truth``, else no: "what colour is the star ? red ?"."""
    while True:
        question = plain(rng, scene, task=task)
        if question.answer not in YES_NO:
            return f"{question.text} {question.answer if truth else rng.choice(wrong_answers(question))} ?"
        if (question.answer == "yes") == truth:
            return question.text


def aside(question: Question, scene: Scene) -> str:
    """What else there is: a thing that the question neither singles out nor names."""
    return phrase(next(t for t in scene.things if t not in question.about and _name(t) not in question.text))


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"
