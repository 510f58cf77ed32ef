"""`python -m memvp_data <command>`: `verify` a folder of shards, `check` one of official files; exit 1 at a fault."""

import argparse
import sys
from collections.abc import Sequence

from memvp_data.datasets.check import add_check_command
from memvp_data.manifest import Manifest
from memvp_data.shards import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m memvp_data", description="Look after official files and shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_verify_command(commands)
    add_check_command(commands)
    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)


def _add_verify_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("verify", help="hash every shard of a folder and print one line per fault")
    parser.add_argument("folder", help="folder that holds manifest.json")
    parser.set_defaults(run=_verify)


def _verify(chosen: argparse.Namespace) -> int:
    faults = verify(chosen.folder)
    if faults:
        print("\n".join(faults))
        return 1
    manifest = Manifest.load(chosen.folder)
    print(f"sound: {len(manifest.shards)} shards, {manifest.num_samples} samples, kind {manifest.kind!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
