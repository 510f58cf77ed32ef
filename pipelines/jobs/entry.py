"""What the entry points share: arguments to a job that runs, and an exit code that says how it went."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from pipelines.jobs.kinds import JobKind


def run_entry(kind: JobKind, arguments: list[str]) -> int:
    """Run a job of this kind and return its exit code."""
    return exit_code(lambda: _run(kind, arguments))


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM). Like any KeyboardInterrupt it passes whatever handles errors.

    Ray's waits let no other kind through, and this one as a plain KeyboardInterrupt.
    """


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` while the block runs, so that runs are closed; a thread hears no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()

    def terminate(number: int, frame: object) -> NoReturn:
        asked.set()
        with suppress(RuntimeError):  # something else was just being printed
            print(
                "terminated; closing what is open; run the same command again to continue", file=sys.stderr, flush=True
            )
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        if asked.is_set():
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(run: Callable[[], None]) -> int:
    """0 done, 2 settings that cannot work, 1 anything else that a user can mend, 130 interrupted, 143 terminated."""
    from memvp_train.config import ConfigError
    from pipelines.config.errors import RecipeError
    from pipelines.console.errors import user_sentence

    try:
        with terminable():
            run()
    except Terminated:
        return 143
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, (RecipeError, ConfigError)) else 1
    return 0


def _run(kind: JobKind, arguments: list[str]) -> None:
    from pipelines.jobs.command_line import read_arguments
    from pipelines.workflow.run_folder import storage_folder

    config, options = read_arguments(kind, arguments)
    storage = storage_folder(config.storage, environment=os.environ)
    print(storage, flush=True)

    from rich.console import Console

    from memvp_train.launch.cores import spin_briefly
    from pipelines.console.warning_lines import warning_lines

    if config.launch.num_workers == 0:
        spin_briefly()
    console = Console()
    # Logs have no width of their own; rich would fold the results table at 80 columns.
    console = console if console.is_terminal else Console(width=160)
    with warning_lines(console):
        if options.dry_run:
            from pipelines.jobs.dry_run import describe_job

            describe_job(kind, config, options=options, storage=storage, console=console)
        else:
            from pipelines.jobs.run import run_job

            run_job(kind, config, options=options, storage=storage, console=console)
