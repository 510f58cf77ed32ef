"""Compare adapters: any of them on any benchmarks, from official files to one page of scores.

    python pipelines/evaluate.py --config pipelines/recipes/compare.yaml --adapters.mine=runs/mine/tune/adapter

The same line behind `ray job submit --working-dir . --` runs it on a cluster. Killed or failed, submit it
again: finished steps are re-used, an interrupted one continues.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: Python then puts this folder on the path instead of the one that holds the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main(arguments: list[str]) -> int:
    """Run the job; the exit code is explained in entry.py."""
    from pipelines.jobs.entry import run_entry
    from pipelines.jobs.kinds import COMPARISON

    return run_entry(COMPARISON, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
