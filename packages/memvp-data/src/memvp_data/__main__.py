"""`python -m memvp_data verify <folder>`: check a folder of shards; one line per fault, exit 1 if any."""

import argparse
import sys
from collections.abc import Sequence

from memvp_data.manifest import Manifest
from memvp_data.shards import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m memvp_data", description="Look after shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="hash every shard of a folder and print one line per fault")
    check.add_argument("folder", help="folder that holds manifest.json")
    folder = parser.parse_args(arguments).folder
    faults = verify(folder)
    if faults:
        print("\n".join(faults))
        return 1
    manifest = Manifest.load(folder)
    print(f"sound: {len(manifest.shards)} shards, {manifest.num_samples} samples, kind {manifest.kind!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
