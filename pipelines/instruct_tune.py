"""The job's entry point: raw images to an evaluated, registered adapter.

    python pipelines/instruct_tune.py --config pipelines/recipes/toyworld.yaml --stage1.learning_rate=2e-3

The same line behind `ray job submit --working-dir . --` runs it on a cluster. Killed or failed, submit it
again: finished steps are re-used, an interrupted one continues.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: Python then puts this folder on the path instead of the one that holds the package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 settings that cannot work, 1 anything else that a user can mend, 130 interrupted."""
    from memvp_train.config import ConfigError as PartConfigError
    from pipelines.config import ConfigError
    from pipelines.errors import user_sentence

    try:
        _run(arguments)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, (ConfigError, PartConfigError)) else 1
    return 0


def _run(arguments: list[str]) -> None:
    from pipelines.settings import read_job
    from pipelines.storage import storage_folder

    config = read_job(arguments)
    storage = storage_folder(config.storage, environment=os.environ)
    print(storage, flush=True)

    from rich.console import Console

    from pipelines.job import run_job

    console = Console()
    # Logs have no width of their own; rich would fold the results table at 80 columns.
    run_job(config, storage=storage, console=console if console.is_terminal else Console(width=160))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
