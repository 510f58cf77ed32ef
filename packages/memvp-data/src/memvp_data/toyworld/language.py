"""What can be said about a scene: captions, questions with their answers, and the words all of it needs.

Every answer but a caption or a phrase is one word. Things are told place first ("top-left small red circle"), so that
the last word of a thing has its other attributes right before it: look-ups between neighbouring words are what a
small language model learns first. Answers of each task are balanced, so that guessing without the scene gains little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from memvp_data.toyworld.scenes import COLOURS, HELD_OUT_PAIRS, PLACES, SHAPES, SIZES, PairPolicy, Scene, Thing

NUMBERS = ("zero", "one", "two", "three")
LETTERS = ("A", "B", "C")
RELATIONS = ("left of", "right of", "above", "below")
DESCRIBE = "describe the scene"


@dataclass(frozen=True)
class Question:
    """A question about one scene, its answer, and the task it belongs to."""

    task: str
    text: str
    answer: str
    about: tuple[Thing, ...] = ()
    """The things it singles out; empty where it counts, or names a thing that is not there."""


def phrase(thing: Thing) -> str:
    """ "top-left small red circle"."""
    return f"{PLACES[thing.place]} {thing.size} {thing.colour} {thing.shape}"


def caption(scene: Scene, *, order: Random | None = None) -> str:
    """All things, in reading order or, given ``order``, shuffled."""
    things = list(scene.things)
    if order is not None:
        order.shuffle(things)
    return " ; ".join(phrase(thing) for thing in things)


def name(thing: Thing) -> str:
    return f"the {thing.colour} {thing.shape}"


def _referred(rng: Random, scene: Scene, *, by: str) -> tuple[Thing, str]:
    """A thing and words that single it out without naming what is asked: by its place, or by its only ``by``."""
    only = [t for t in scene.things if sum(getattr(t, by) == getattr(o, by) for o in scene.things) == 1]
    if only and rng.random() < 0.6:
        thing = rng.choice(only)
        return thing, f"the {thing.shape}" if by == "shape" else f"the {thing.colour} thing"
    thing = rng.choice(scene.things)
    return thing, f"at {PLACES[thing.place]}"


def ask_colour(rng: Random, scene: Scene) -> Question | None:
    thing, words = _referred(rng, scene, by="shape")
    return Question("colour", f"what colour is {words} ?", thing.colour, (thing,))


def ask_shape(rng: Random, scene: Scene) -> Question | None:
    thing, words = _referred(rng, scene, by="colour")
    return Question("shape", f"what shape is {words} ?", thing.shape, (thing,))


def ask_count(rng: Random, scene: Scene) -> Question | None:
    """Balanced over zero to three as far as the scene allows: the number is drawn first."""
    counts = {f"{c} things": sum(t.colour == c for t in scene.things) for c in COLOURS}
    counts |= {f"{s} shapes": sum(t.shape == s for t in scene.things) for s in SHAPES}
    number = rng.choices(range(4), weights=(1, 1, 1.3, 1.6))[0]
    fitting = [words for words, count in counts.items() if count == number]
    return Question("count", f"how many {rng.choice(fitting)} ?", NUMBERS[number]) if fitting else None


def ask_exist(rng: Random, scene: Scene) -> Question | None:
    """The "no" pairs name, in three of four cases, a colour and a shape that both occur, only not together."""
    present = {thing.pair for thing in scene.things}
    if rng.random() < 0.5:
        colour, shape = rng.choice(sorted(present))
        return Question("exist", f"is there a {colour} {shape} ?", "yes")
    hard = {(c, s) for c, _ in present for _, s in present} - present
    easy = {(c, s) for c in COLOURS for s in SHAPES} - present
    colour, shape = rng.choice(sorted(hard if hard and rng.random() < 0.75 else easy))
    return Question("exist", f"is there a {colour} {shape} ?", "no")


def ask_compare(rng: Random, scene: Scene) -> Question | None:
    """Is one thing bigger than another? "no" means smaller or alike."""
    pairs = [(a, b) for a in scene.things for b in scene.things if a is not b]
    bigger = [(a, b) for a, b in pairs if a.size == "big" and b.size == "small"]
    if not bigger:
        return None
    yes = rng.random() < 0.5
    first, second = rng.choice(bigger if yes else [pair for pair in pairs if pair not in bigger])
    return Question(
        "compare", f"is {name(first)} bigger than {name(second)} ?", "yes" if yes else "no", (first, second)
    )


def holds(relation: str, first: Thing, second: Thing) -> bool:
    """Whether ``first`` stands strictly in ``relation`` to ``second``, by row or by column alone."""
    match relation:
        case "left of":
            return first.column < second.column
        case "right of":
            return first.column > second.column
        case "above":
            return first.row < second.row
        case _:
            return first.row > second.row


def ask_spatial(rng: Random, scene: Scene) -> Question | None:
    """Left of, right of, above or below; the two never share the column (the row) that is asked about."""
    relation = rng.choice(RELATIONS)
    axis = "column" if relation in ("left of", "right of") else "row"
    pairs = [(a, b) for a in scene.things for b in scene.things if getattr(a, axis) != getattr(b, axis)]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    answer = "yes" if holds(relation, first, second) else "no"
    return Question("spatial", f"is {name(first)} {relation} {name(second)} ?", answer, (first, second))


def ask_choice(rng: Random, scene: Scene) -> Question | None:
    """A colour or shape question with three options, wrong ones taken from the scene where it has enough."""
    question = rng.choice((ask_colour, ask_shape))(rng, scene)
    assert question is not None
    everything = tuple(COLOURS) if question.task == "colour" else SHAPES
    here = {thing.colour if question.task == "colour" else thing.shape for thing in scene.things}
    wrong = sorted(here - {question.answer})
    rng.shuffle(wrong)
    wrong += rng.sample([w for w in everything if w not in here], 2) if len(wrong) < 2 else []
    options = [question.answer, *wrong[:2]]
    rng.shuffle(options)
    listed = " ".join(f"{letter} {option}" for letter, option in zip(LETTERS, options, strict=True))
    return Question("choice", f"{question.text} {listed}", LETTERS[options.index(question.answer)], question.about)


def ask_where(rng: Random, scene: Scene) -> Question | None:
    thing = rng.choice(scene.things)
    return Question("where", f"where is {name(thing)} ?", PLACES[thing.place])


def ask_size(rng: Random, scene: Scene) -> Question | None:
    thing = rng.choice(scene.things)
    words = name(thing) if rng.random() < 0.5 else f"the thing at {PLACES[thing.place]}"
    return Question("size", f"what size is {words} ?", thing.size)


def ask_what(rng: Random, scene: Scene) -> Question | None:
    thing = rng.choice(scene.things)
    return Question("what", f"what is at {PLACES[thing.place]} ?", f"{thing.size} {thing.colour} {thing.shape}")


def ask_describe(rng: Random, scene: Scene) -> Question | None:
    return Question("describe", DESCRIBE, caption(scene))


ASK: dict[str, Callable[[Random, Scene], Question | None]] = {
    "colour": ask_colour,
    "shape": ask_shape,
    "count": ask_count,
    "exist": ask_exist,
    "compare": ask_compare,
    "spatial": ask_spatial,
    "choice": ask_choice,
}
"""The tasks that are scored."""
TASKS = tuple(ASK)
READING: dict[str, Callable[[Random, Scene], Question | None]] = {
    "where": ask_where,
    "size": ask_size,
    "what": ask_what,
    "describe": ask_describe,
}
"""What the language model practises besides, so that look-ups form; never scored."""


def ask(rng: Random, scene: Scene, *, task: str, held_out: PairPolicy = "any") -> Question:
    """A question of ``task``, or of another task when the scene has none that fits.

    ``held_out``: "seen" never names a held-out colour-shape pair or singles out a thing of one, "unseen" always does
    (counts excepted), "any" does not look.
    """
    for attempt in range(1000):
        question = ASK[task if attempt < 50 else rng.choice(TASKS)](rng, scene)
        if question is not None and _suits(question, held_out):
            return question
    raise ValueError(f"no question with held_out={held_out!r} fits the scene {caption(scene)!r}")


def _suits(question: Question, policy: PairPolicy) -> bool:
    named = any(f"{colour} {shape}" in question.text for colour, shape in HELD_OUT_PAIRS)
    touched = named or any(thing.pair in HELD_OUT_PAIRS for thing in question.about)
    return policy == "any" or touched == (policy == "unseen") or (policy == "unseen" and question.task == "count")


def vocabulary() -> list[str]:
    """Every word of the toy world, in a fixed order."""
    words = [*COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS, *LETTERS, "yes", "no", "shapes", "thing", "things"]
    words += "USER ASSISTANT describe the scene what colour shape size is at how many there a bigger than of".split()
    words += "left right above below where ; . ?".split()
    return list(dict.fromkeys(words))
