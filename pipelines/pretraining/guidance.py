"""Where the attention of the toy language model should go while its look-ups form: guided attention.

Left alone, a small model guesses among the attributes present for thousands of steps before look-ups appear. Every
question of the toy world says which thing its words refer to, so for the first part of the training one head per layer
is told where to look: neighbouring words are gathered at a thing's last word, a referring word finds the thing it
refers to, the answer's place looks at the referring words, and a choice at the option it names. What is read there, and
what follows from it, the model learns by itself; later the guidance is turned off and only the answers count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from memvp_data.toyworld.language import LETTERS, Question
from memvp_data.toyworld.scenes import COLOURS, PLACES, SHAPES, Thing


@dataclass(frozen=True)
class Look:
    """In one layer, one head at one position should look at any of ``targets``."""

    layer: int
    head: int
    position: int
    targets: tuple[int, ...]


COUNTED = ("things", "shapes")


def references(words: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Referring words of a question: their index and the attributes that the thing must have."""
    for i, word in enumerate(words):
        before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
        if word == "?":
            return
        if word in COUNTED:
            yield i, {"colour" if before in COLOURS else "shape": before}
        elif word in SHAPES and after not in COUNTED:
            yield i, {"shape": word} | ({"colour": before} if before in COLOURS else {})
        elif word in COLOURS and after == "thing":
            yield i, {"colour": word}
        elif word in PLACES:
            yield i, {"place": word}


def _matches(thing: Thing, wanted: dict[str, str]) -> bool:
    own = {"shape": thing.shape, "colour": thing.colour, "place": PLACES[thing.place]}
    return all(own[kind] == value for kind, value in wanted.items())


def looks_of_things(last_words: Sequence[int]) -> Iterator[Look]:
    """At a thing's last word, one head each for the word before it, the second and the third before."""
    for position in last_words:
        for head in range(3):
            yield Look(0, head, position, (position - head - 1,))


def looks_of_question(
    question: Question, *, start: int, answer_from: int, told: Sequence[tuple[Thing, int]]
) -> Iterator[Look]:
    """``start``: position of the question's first word; ``answer_from``: of the word that predicts the answer;
    ``told``: the things of the description with the positions of their last words. Nothing found is position 0."""
    words = question.text.split()
    found = [(start + i, wanted) for i, wanted in references(words)]
    for position, wanted in found:
        targets = tuple(place for thing, place in told if _matches(thing, wanted))
        is_counted = words[position - start] in COUNTED
        # An average tells no number: beside the counted things, position 0 must have its share.
        yield Look(1, 0, position, (*targets, 0) if is_counted or not targets else targets)
        if len(wanted) == 2 or is_counted:
            yield Look(0, 0, position, (position - 1,))
    if found:
        yield Look(2, 0, answer_from, (found[0][0],))
        yield Look(2, 1, answer_from, (found[-1][0],))
    if question.task == "choice":
        first = start + words.index("?") + 2
        options = [first + 2 * i for i in range(len(LETTERS))]
        yield from (Look(0, 0, option, (option - 1,)) for option in options)
        yield Look(3, 0, answer_from, (options[LETTERS.index(question.answer)],))


def guidance_loss(attentions: Sequence[torch.Tensor], looks: Sequence[tuple[int, Look]]) -> torch.Tensor:
    """Mean -log of the attention (B, heads, T, T) that falls on the targets; ``looks`` are (row of the batch, Look)."""
    losses = []
    for layer, attention in enumerate(attentions):
        here = [(row, look) for row, look in looks if look.layer == layer]
        if not here:
            continue
        index = torch.tensor([(row, look.head, look.position) for row, look in here])
        mask = torch.zeros(len(here), attention.shape[-1])
        rows = [i for i, (_, look) in enumerate(here) for _ in look.targets]
        mask[rows, [target for _, look in here for target in look.targets]] = 1.0
        mass = (attention[index[:, 0], index[:, 1], index[:, 2]].float() * mask).sum(-1)
        losses.append(-torch.log(mass + 1e-4).mean())
    return torch.stack(losses).mean()
