"""The toy world as POPE: six questions about every image, is there such a thing or not, in the three official splits.

The things that are not there are drawn at random, are those that most images show, or are mixed of a colour and a
shape that both are there: random, popular and adversarial.
"""

from collections import Counter
from itertools import product
from random import Random

from memvp_data.datasets.pope import PARTS, question_file
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.coco import image_name
from memvp_data.toyworld.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene

NUM_OF_EACH = 3
Pair = tuple[str, str]
_PAIRS: list[Pair] = sorted({*product(COLOURS, SHAPES)} - HELD_OUT_PAIRS)


def write_pope(album: Album) -> None:
    """Three files about the same images, yes and no by turns."""
    names = [image_name(42 + 31 * i, "val2014") for i in range(album.config.num_test_images)]
    scenes = {name: album.picture(name) for name in names}
    shown = Counter(thing.pair for scene in scenes.values() for thing in scene.things)
    there = {name: album.rng.sample([t.pair for t in scene.things], NUM_OF_EACH) for name, scene in scenes.items()}
    for part in PARTS:
        asked: list[tuple[str, Pair, str]] = []
        for name, scene in scenes.items():
            absent = _absent(album.rng, scene, part=part, shown=shown)
            for yes, no in zip(there[name], absent, strict=True):
                asked += [(name, yes, "yes"), (name, no, "no")]
        album.lines(question_file(part), [_record(n, *row) for n, row in enumerate(asked, start=1)])


def _absent(rng: Random, scene: Scene, *, part: str, shown: Counter[Pair]) -> list[Pair]:
    here = {thing.pair for thing in scene.things}
    away = [pair for pair in _PAIRS if pair not in here]
    rng.shuffle(away)
    if part == "popular":
        away.sort(key=lambda pair: -shown[pair])
    if part == "adversarial":
        colours, shapes = {colour for colour, _ in here}, {shape for _, shape in here}
        away.sort(key=lambda pair: -(pair[0] in colours) - (pair[1] in shapes))
    return away[:NUM_OF_EACH]


def _record(number: int, image: str, pair: Pair, label: str) -> Record:
    text = f"is there a {pair[0]} {pair[1]} ?"
    return {"question_id": number, "image": image.removeprefix("val2014/"), "text": text, "label": label}
