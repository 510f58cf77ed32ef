"""Scenes of the toy world: which things stand where. Nothing here knows pixels, words of a question or files.

A scene has 3 to 6 things on a 3 x 3 grid of places. Colours come from a small palette drawn per scene and shapes from a
small set, so that counts above one and hard "no" answers occur; a third of the scenes draw every attribute
independently, so that the palette is no clue. No two things of a scene share both colour and shape: "the red circle"
always names one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Literal

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 210, 225),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross", "star")
SIZES = ("small", "big")
PLACES = tuple(
    "top-left top-middle top-right middle-left center middle-right bottom-left bottom-middle bottom-right".split()
)
HELD_OUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("green", "circle"),
        ("blue", "cross"),
        ("yellow", "triangle"),
        ("purple", "square"),
        ("cyan", "star"),
    }
)
"""Colour-shape pairs that no training image shows; the language model reads about them in text."""

PairPolicy = Literal["seen", "unseen", "any"]


@dataclass(frozen=True)
class Thing:
    """One drawn thing; ``place`` counts 0..8 in reading order."""

    colour: str
    shape: str
    size: str
    place: int

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def row(self) -> int:
        return self.place // 3

    @property
    def column(self) -> int:
        return self.place % 3


@dataclass(frozen=True)
class Scene:
    """3 to 6 things in reading order of their places, at most one per place and one per colour-shape pair."""

    things: tuple[Thing, ...]


def sample_scene(rng: Random, *, pairs: PairPolicy = "any") -> Scene:
    """Draw a scene. ``pairs``: "seen" has no held-out pair, "unseen" has at least one, "any" does not look."""
    count = rng.randint(3, 6)
    candidates = _palette(rng, count=count, pairs=pairs)
    chosen = rng.sample(candidates, count)
    if pairs == "unseen":
        chosen[0] = rng.choice(sorted(HELD_OUT_PAIRS - set(chosen[1:]) or {chosen[0]}))
    places = rng.sample(range(9), count)
    things = [Thing(c, s, rng.choice(SIZES), place) for (c, s), place in zip(chosen, places, strict=True)]
    return Scene(tuple(sorted(things, key=lambda thing: thing.place)))


def _palette(rng: Random, *, count: int, pairs: PairPolicy) -> list[tuple[str, str]]:
    """Colour-shape pairs the scene may use: all of them in a third of the scenes, else a small palette of both."""
    while True:
        wide = rng.random() < 1 / 3
        colours = list(COLOURS) if wide else rng.sample(list(COLOURS), rng.randint(2, 5))
        shapes: Sequence[str] = SHAPES if wide else rng.sample(SHAPES, rng.randint(2, 4))
        candidates = [pair for pair in product(colours, shapes) if pairs == "any" or pair not in HELD_OUT_PAIRS]
        if len(candidates) >= count:
            return candidates
