"""`python -m memvp_data <command>`: verify shards, check official files, score predictions; exit 1 at a fault."""

import argparse
import sys
from collections.abc import Sequence

from memvp_data.cli.score import add_score_command
from memvp_data.cli.shards import add_index_command, add_verify_command
from memvp_data.cli.submission import add_submission_command
from memvp_data.cli.toyworld import add_toyworld_command
from memvp_data.cli.unpack import add_unpack_command
from memvp_data.datasets.check import add_check_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m memvp_data", description="Look after official files, shards and scores."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_verify_command(commands)
    add_index_command(commands)
    add_check_command(commands)
    add_unpack_command(commands)
    add_score_command(commands)
    add_submission_command(commands)
    add_toyworld_command(commands)
    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
