"""The toy world as COCO Captions: train2014/, val2014/ and Karpathy's `dataset_coco.json`, five captions per image."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from memvp_data.datasets.karpathy import FILE
from memvp_data.toyworld.formats.album import Album, FormatConfig, Record
from memvp_data.toyworld.language import caption
from memvp_data.toyworld.scenes import Scene

NUM_CAPTIONS = 5


def image_name(number: int, subset: str) -> str:
    """ "val2014/COCO_val2014_000000000042.jpg"."""
    return f"{subset}/COCO_{subset}_{number:012d}.jpg"


def write_coco(album: Album) -> list[tuple[int, str, Scene]]:
    """Write all images of both subsets and return (COCO's number, subset, scene) of each."""
    drawn, records = [], []
    for place, (part, subset) in enumerate(_parts(album.config)):
        number = 9 + 7 * place  # COCO's numbers have gaps
        scene = album.picture(image_name(number, subset))
        drawn.append((number, subset, scene))
        captions = [caption(scene, order=album.rng) for _ in range(NUM_CAPTIONS)]
        records.append(_image(place, number, subset=subset, part=part, captions=captions))
    album.json(FILE, {"images": records, "dataset": "coco"})
    return drawn


def _parts(config: FormatConfig) -> Iterator[tuple[str, str]]:
    """(Karpathy's part, official subset) of every image; all of train2014 is trained on, and some of val2014."""
    for part, subset in (("train", "train2014"), ("restval", "val2014"), ("val", "val2014"), ("test", "val2014")):
        yield from [(part, subset)] * (config.num_images if part == "train" else config.num_test_images)


def _image(place: int, number: int, *, subset: str, part: str, captions: list[str]) -> Record:
    sentences = [
        {"tokens": re.findall("[a-z]+", said), "raw": said, "imgid": place, "sentid": NUM_CAPTIONS * place + n}
        for n, said in enumerate(captions)
    ]
    return {
        "filepath": subset,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "filename": PurePosixPath(image_name(number, subset)).name,
        "imgid": place,
        "split": part,
        "sentences": sentences,
        "cocoid": number,
    }
