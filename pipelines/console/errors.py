"""The one place that decides what a user reads: a sentence for what they can mend, a traceback for our bugs."""

import errno
import traceback
from collections.abc import Iterator

from pipelines.console.redaction import redacted

# A ValueError raised by a line of these packages was written for the user. One raised deeper, inside a library, was
# not: then the traceback is what helps.
OUR_PACKAGES = ("memvp_core", "memvp_data", "memvp_train", "pipelines")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def user_sentence(error: BaseException) -> str | None:
    """The sentence to print after "error: ", or None for a bug."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:  # whoever's line it was
            return redacted(f"no room at {cause.filename or 'the disk'}; free some and run the same command again")
        if isinstance(cause, (ValueError, OSError)) and _is_ours(cause):
            return redacted(" ".join(str(cause).split()))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it wraps: Ray hands a worker's error on inside its own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _is_ours(error: BaseException) -> bool:
    if type(error).__module__.split(".")[0] in OUR_PACKAGES:
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] in OUR_PACKAGES
