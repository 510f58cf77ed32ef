"""COCO Captions in Karpathy's split: one sample per caption in training, one per image with all its captions else.

Source: cocodataset.org (train2014 and val2014 images) and `dataset_coco.json`, see karpathy.py. Licence: captions CC
BY 4.0, images under Flickr's terms of use. Counts: train 566,747 captions of 113,287 images (restval among them), val
5,000 and test 5,000 images of 25,010 captions each. The user's turn is empty: a template asks for the caption.
"""

from collections.abc import Iterator
from pathlib import Path

from memvp_data.datasets.karpathy import FILE, CocoImage, read_karpathy
from memvp_data.datasets.records import ImageFolder, one_of
from memvp_data.samples import Sample, Turn, to_id

SPLITS = ("train", "val", "test")


def read_coco(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of the folder that holds dataset_coco.json, train2014/ and val2014/."""
    one_of(split, SPLITS, what="split")
    images = ImageFolder(root if check_images else None)
    return images.whole(_read(Path(root, FILE), split=split, images=images))


def _read(path: Path, *, split: str, images: ImageFolder) -> Iterator[Sample]:
    for image in read_karpathy(path):
        if image.part == split:
            with images.placed(f"{path.name}, cocoid {image.coco_id}"):
                image_id = images.id(image.name)
                samples = _pairs(image, image_id) if split == "train" else [_with_references(image, image_id)]
            yield from samples


def _pairs(image: CocoImage, image_id: str) -> list[Sample]:
    return [
        Sample(
            id=to_id(f"{image.coco_id}-{number}"),
            image_ids=(image_id,),
            turns=(Turn("user", ""), Turn("assistant", caption)),
            answers=(caption,),
            source=FILE,
        )
        for number, caption in image.captions
    ]


def _with_references(image: CocoImage, image_id: str) -> Sample:
    captions = tuple(caption for _, caption in image.captions)
    return Sample(str(image.coco_id), (image_id,), (Turn("user", ""),), answers=captions, source=FILE)
