"""Environment variables and log levels that hold for a block and are put back after it."""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

NICENESS = "RAY_worker_niceness"


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set (or, by None, unset) variables for a block and put back what was there, whatever happens to them inside."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Only errors of the logger `name` are heard."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def local_ray() -> dict[str, str | None]:
    """Variables for a Ray of our own: with a token that only this process and its children know, no other user can run
    code on it.

    RAY_AUTH_MODE stays unset where the user left it so: `ray.init` then switches token mode on by itself (2.60 and
    later), which it would not notice in a variable set after `import ray`. Both are taken back when the session ends.

    Workers run at this process's own niceness. Ray's default, 15 above it, leaves a worker a thirtieth of a core that
    any other program wants.
    """
    quiet: dict[str, str | None] = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        NICENESS: os.environ.get(NICENESS, "0"),
    }
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
        return quiet
    return {**quiet, "RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": _session_token()}


@cache
def _session_token() -> str:
    """One for the life of the process: Ray reads it once."""
    return secrets.token_hex(32)
