"""Checking beside reading: a second thread hashes what was read while the first reads on, and the first helps out.

SHA-256 and reading let go of Python's lock, so the two really run on two cores. Nothing is handed out unchecked.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

from memvp_data.files.storage import ShardError

T = TypeVar("T")
# Handing a group over costs tens of microseconds, hashing a MiB 600.
_GROUP_BYTES, _GROUPS_AHEAD = 1 << 20, 8


class _Checked(NamedTuple):
    """What came of a group."""

    num_sound: int
    error: ShardError | None
    """What is wrong with the item after these."""


def checked_in_order(items: Iterable[T], *, check: Callable[[T], object], num_bytes: Callable[[T], int]) -> Iterator[T]:
    """The items in their order, each after its check, up to the first `ShardError` of a check or of the items."""
    waiting, pool = deque[tuple[list[T], Future[_Checked]]](), _second_thread(os.getpid())
    try:
        for group, error in _grouped(items, num_bytes=num_bytes):
            if error is not None or sum(not checked.done() for _, checked in waiting) > 1:
                checked = _done(_Checked(0, error) if error is not None else _checked(group, check=check))
            else:
                checked = pool.submit(_checked, group, check=check)
            waiting.append((group, checked))
            while len(waiting) > _GROUPS_AHEAD or (waiting and waiting[0][1].done()):
                yield from _given(*waiting.popleft())
        while waiting:
            yield from _given(*waiting.popleft())
    finally:
        for _, checked in waiting:
            checked.cancel()


def check_all(items: Sequence[T], *, check: Callable[[T], object]) -> None:
    """Check every item, on two threads."""
    todo = iter(items)

    def some() -> None:
        for item in todo:
            check(item)

    beside = _second_thread(os.getpid()).submit(some)
    some()
    if not beside.cancel():
        beside.result()


@lru_cache(maxsize=1)
def _second_thread(process: int) -> ThreadPoolExecutor:
    """One for all readers of a process, as a new thread takes long to find a core; a forked process has none yet."""
    return ThreadPoolExecutor(1, thread_name_prefix="memvp-hash")


def _grouped(items: Iterable[T], *, num_bytes: Callable[[T], int]) -> Iterator[tuple[list[T], ShardError | None]]:
    """Items in groups of some bytes; what the items raise comes last, in its place."""
    group, total = list[T](), 0
    try:
        for item in items:
            group.append(item)
            total += num_bytes(item)
            if total >= _GROUP_BYTES:
                yield group, None
                group, total = [], 0
    except ShardError as error:
        yield group, None
        yield [], error
        return
    yield group, None


def _checked(group: Sequence[T], *, check: Callable[[T], object]) -> _Checked:
    for number, item in enumerate(group):
        try:
            check(item)
        except ShardError as error:
            return _Checked(number, error)
    return _Checked(len(group), None)


def _done(checked: _Checked) -> Future[_Checked]:
    future = Future[_Checked]()
    future.set_result(checked)
    return future


def _given(group: Sequence[T], checked: Future[_Checked]) -> Iterator[T]:
    num_sound, error = checked.result()
    yield from group[:num_sound]
    if error is not None:
        raise error
