"""`python -m memvp_data unpack-images <root>`: write the images that MMBench keeps inside its tables to image files."""

import argparse
import sys
from pathlib import Path

from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.mmbench import FILES, SPLITS, unpack_images


def add_unpack_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `unpack-images` to the commands of `python -m memvp_data`."""
    parser = commands.add_parser("unpack-images", help="write the images inside MMBench's tables to images/")
    parser.add_argument("root", help="folder that holds the .tsv files")
    parser.add_argument("--split", choices=SPLITS, help="only this split; without it every split that is there")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    splits = [chosen.split] if chosen.split else [name for name in SPLITS if Path(chosen.root, FILES[name]).is_file()]
    if not splits:
        print(f"{chosen.root} holds none of {', '.join(FILES.values())}; download them there", file=sys.stderr)
        return 1
    try:
        for split in splits:
            print(
                f"{split}: {unpack_images(chosen.root, split=split):,} images in {Path(chosen.root, 'images', split)}"
            )
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
