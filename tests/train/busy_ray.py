"""A Ray whose processors are not all free, until somebody says that they wait."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray


class _Hog:
    """Keeps a processor."""

    def ready(self) -> None:
        """Returns when it has it."""


@contextmanager
def busy_until_said(line: str, *, logger: str) -> Iterator[None]:
    """One processor is taken until `logger` logs a line that begins like this, which it must while the block runs."""
    hog: Any = ray.remote(_Hog).options(num_cpus=1).remote()
    ray.get(hog.ready.remote())
    said: list[str] = []

    class FreeWhenSaid(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if said[-1].startswith(line):
                ray.kill(hog)

    handler = FreeWhenSaid()
    logging.getLogger(logger).addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger(logger).removeHandler(handler)
        ray.kill(hog)
    assert any(one.startswith(line) for one in said), said
