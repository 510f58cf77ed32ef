"""`python -m memvp_data <command>`: `verify` a folder of shards, `check` one of official files; exit 1 at a fault."""

import argparse
import sys
from collections.abc import Sequence

from memvp_data.datasets.check import add_check_command
from memvp_data.shard_commands import add_index_command, add_verify_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m memvp_data", description="Look after official files and shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_verify_command(commands)
    add_index_command(commands)
    add_check_command(commands)
    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
