"""`python -m memvp_data verify` and `index`: check a folder of shards; make tars of others readable."""

import argparse

from memvp_data.shards.foreign import index_tars
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.verification import verify


def add_verify_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`verify FOLDER`: one line per fault, exit 1 if there is any."""
    parser = commands.add_parser("verify", help="hash every shard of a folder and print one line per fault")
    parser.add_argument("folder", help="folder that holds manifest.json, or its URL")
    parser.add_argument("--shards", help="where the tars lie, if not beside the manifest")
    parser.add_argument("--lengths-only", action="store_true", help="do not hash: seconds, but most damage goes unseen")
    parser.set_defaults(run=_verify)


def add_index_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`index FOLDER`: manifest and index of webdataset tars that others wrote."""
    parser = commands.add_parser(
        "index", help="make a manifest and an index for webdataset tars, such as img2dataset's"
    )
    parser.add_argument("folder", help="folder that holds the tars, or its URL")
    parser.add_argument("--into", help="where manifest and index go (default: beside the tars)")
    parser.add_argument("--skip", action="append", default=[], help="suffix of members to leave out, may be repeated")
    parser.set_defaults(run=_index)


def _verify(chosen: argparse.Namespace) -> int:
    faults = verify(chosen.folder, full=not chosen.lengths_only, shards=chosen.shards)
    if faults:
        print("\n".join(faults))
        return 1
    manifest = Manifest.load(chosen.folder)
    what = "lengths agree" if chosen.lengths_only else "sound"
    print(f"{what}: {len(manifest.shards)} shards, {manifest.num_samples} samples, kind {manifest.kind!r}")
    return 0


def _index(chosen: argparse.Namespace) -> int:
    try:
        manifest = index_tars(chosen.folder, into=chosen.into, skip_suffixes=tuple(chosen.skip))
    except ValueError as error:
        print(error)
        return 1
    skipped = sum(manifest.meta["skipped_members"].values())
    print(f"indexed: {len(manifest.shards)} shards, {manifest.num_samples} samples, {skipped} members left out")
    return 0
