"""`python -m memvp_data toyworld <dataset> <folder>`: draw the toy world as the official files of a dataset."""

import argparse
import sys

from memvp_data.toyworld.formats import FORMATS, FormatConfig, write_format


def add_toyworld_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `toyworld` to the commands of `python -m memvp_data`."""
    parser = commands.add_parser(
        "toyworld", help="draw a small world as the official files of a dataset, to try it out"
    )
    parser.add_argument("dataset", choices=FORMATS, help="name of the dataset")
    parser.add_argument("folder", help="a new or empty folder")
    parser.add_argument(
        "--images", type=int, default=FormatConfig.num_images, help="images of a training split (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=FormatConfig.seed, help="another seed, another world")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    try:
        config = FormatConfig(num_images=chosen.images, seed=chosen.seed)
        folder = write_format(chosen.dataset, chosen.folder, config)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    num_files = sum(path.is_file() for path in folder.rglob("*"))
    print(f"{chosen.dataset}: {num_files:,} files in {folder}; scenes.jsonl tells what each picture shows")
    return 0
