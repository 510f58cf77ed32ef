"""`python -m memvp_data check <dataset> <root>`: what a folder of official files holds against what it should hold.

Every record is read and every image looked up, without decoding any. One line per split and one per fault.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.table import DATASETS, Dataset, Split, find_dataset, find_split
from memvp_data.ids import from_id, listed


@dataclass
class Found:
    """What was read of a split."""

    num_samples: int = 0
    """Samples."""
    num_text_only: int = 0
    """Samples without image."""
    images: set[str] = field(default_factory=set)
    """Ids of the distinct images."""
    missing: list[str] = field(default_factory=list)
    """Names of images whose file is not there."""
    folders: Counter[str] = field(default_factory=Counter)
    """Samples by the folder of their image, of the folders that the split names."""


def add_check_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check` to the commands of `python -m memvp_data`."""
    parser = commands.add_parser("check", help="count the records and images of a folder of official files")
    parser.add_argument("dataset", choices=DATASETS, help="name of the dataset")
    parser.add_argument("root", help="folder that holds its files")
    parser.add_argument("--split", help="only this split; without it every split that is there")
    parser.add_argument("--part", action="store_true", help="the files hold a part of the dataset: expect no counts")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    try:
        lines, faults = check_dataset(chosen.dataset, chosen.root, split=chosen.split, expect_counts=not chosen.part)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join([*lines, *(f"fault: {fault}" for fault in faults)]))
    return 1 if faults else 0


def check_dataset(
    name: str, root: Path | str, *, split: str | None = None, expect_counts: bool = True
) -> tuple[list[str], list[str]]:
    """(lines of what was found, faults) of one split, or of every split that has any of its files in the folder.

    With `expect_counts=False` the published counts are neither told nor compared; files, records and images still are.
    """
    dataset, lines, faults = find_dataset(name), list[str](), list[str]()
    chosen = {split: find_split(dataset, split)} if split is not None else _present(dataset, root=Path(root))
    if not chosen:
        known = ", ".join(sorted({file for item in dataset.splits.values() for file in item.files}))
        return [], [f"{root} holds none of the files of {name}; expected some of {known}"]
    for split_name, published in chosen.items():
        expected = published if expect_counts else Split(published.files)
        absent = [file for file in expected.files if not Path(root, file).exists()]
        faults += [f"{split_name}: {file} is not in {root}; download it there" for file in absent]
        if not absent:
            line, split_faults = _check_split(dataset, Path(root), name=split_name, expected=expected)
            lines.append(line)
            faults += split_faults
    return lines, faults


def _present(dataset: Dataset, *, root: Path) -> dict[str, Split]:
    """The splits whose files are all there, and those that explain why another file is there."""
    there = {file for split in dataset.splits.values() for file in split.files if (root / file).exists()}
    whole = {name: split for name, split in dataset.splits.items() if there.issuperset(split.files)}
    unexplained = there.difference(*(split.files for split in whole.values()))
    return {name: split for name, split in dataset.splits.items() if name in whole or unexplained & {*split.files}}


def _check_split(dataset: Dataset, root: Path, *, name: str, expected: Split) -> tuple[str, list[str]]:
    found = Found()
    try:
        _count(found, dataset, root=root, name=name, expected=expected)
    except DatasetError as error:
        return _line(found, name=name, expected=expected), [f"{name}: {error}"]
    return _line(found, name=name, expected=expected), list(_faults(found, dataset, name=name, expected=expected))


def _count(found: Found, dataset: Dataset, *, root: Path, name: str, expected: Split) -> None:
    for sample in dataset.read(root, split=name, check_images=False):
        found.num_samples += 1
        found.num_text_only += not sample.image_ids
        for image_id in sample.image_ids:
            image = from_id(image_id)
            if image_id not in found.images and not isfile(Path(root, dataset.images, image)):
                found.missing.append(image)
            found.images.add(image_id)
            found.folders.update(folder for folder in expected.folders if folder and image.startswith(f"{folder}/"))
    if "" in expected.folders:
        found.folders[""] = found.num_text_only


def _line(found: Found, *, name: str, expected: Split) -> str:
    counts = " or ".join(f"{count:,}" for count in expected.num_samples)
    samples = f" ({counts} expected)" if counts else ""
    images = "" if expected.num_images is None else f" of {expected.num_images:,}"
    there = len(found.images) - len(found.missing)
    return (
        f"{name}: {found.num_samples:,} samples{samples}, {found.num_text_only:,} without image; "
        f"{len(found.images):,} images{images}, {there:,} of them in their place"
    )


def _faults(found: Found, dataset: Dataset, *, name: str, expected: Split) -> Iterator[str]:
    if expected.num_samples and found.num_samples not in expected.num_samples:
        counts = " or ".join(f"{count:,}" for count in expected.num_samples)
        yield f"{name}: {found.num_samples:,} samples instead of {counts}; take the official, whole file"
    if expected.num_images is not None and len(found.images) != expected.num_images:
        count = f"{len(found.images):,} images are named instead of {expected.num_images:,}"
        yield f"{name}: {count}; take the official, whole file"
    for folder, count in expected.folders.items():
        if found.folders[folder] != count:
            where = f"with an image in {folder}" if folder else "without image"
            yield f"{name}: {found.folders[folder]:,} samples {where} instead of {count:,}; take the official file"
    if found.missing:
        what_to_do = dataset.hint or "put them there"
        where = dataset.images or "the root"
        yield f"{name}: {len(found.missing):,} images are not in {where} ({listed(found.missing)}); {what_to_do}"
