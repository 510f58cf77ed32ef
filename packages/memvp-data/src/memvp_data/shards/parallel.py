"""Write shards in several processes: the same bytes as `write_shards` gives, whatever the number of processes.

What goes into each shard is planned first, from keys and sizes alone; then every process makes the records of whole
shards. Killed, it is simply called again.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from memvp_data.files.storage import Folder, ShardError
from memvp_data.ids import listed, names_of
from memvp_data.shards.layout import IndexRow, ShardEntry
from memvp_data.shards.manifest import Manifest, write_manifest
from memvp_data.shards.write import MAX_SHARD_BYTES, MAX_SHARD_SAMPLES, begin, grouped, shard_name, write_shard_in

Members = Callable[[str], dict[str, bytes]]
Part = tuple[ShardEntry, list[IndexRow]]


def write_shards_in_processes(
    folder: Path | str,
    keys: Iterable[str],
    *,
    members: Members,
    num_bytes: Callable[[str], int],
    kind: str,
    num_processes: int,
    max_shard_samples: int = MAX_SHARD_SAMPLES,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    meta: dict[str, Any] | None = None,
) -> Manifest:
    """As `write_shards(folder, ((key, members(key)) for key in keys), ...)`, with `members` called elsewhere.

    `members` must be picklable (a function of a module, or a partial of one); `num_bytes` tells here how long the
    members of a key will be together, for an image file its size. A new process starts by importing the caller's main
    module, which must do nothing when imported.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    place = begin(folder)
    plan = grouped(_sized(keys, num_bytes), max_samples=max_shard_samples, max_bytes=max_shard_bytes)
    jobs = [(shard_name(kind, number), group) for number, group in enumerate(plan)]
    sizes = [sum(map(num_bytes, group)) for _, group in jobs]
    parts = _written(place, jobs, members=members, num_processes=num_processes)
    for (name, _), (_, rows), expected in zip(jobs, parts, sizes, strict=True):
        if sum(row.size for row in rows) != expected:
            raise ShardError(f"the members of shard {name} are not as long as num_bytes said; write the shards again")
    all_rows = [row for _, rows in parts for row in rows]
    return write_manifest(place, kind=kind, shards=[entry for entry, _ in parts], rows=all_rows, meta=meta)


def _sized(keys: Iterable[str], num_bytes: Callable[[str], int]) -> list[tuple[str, int]]:
    """(key, bytes of its members). Where several keys have no members, such as files that are missing, all are told."""
    sized, refused = list[tuple[str, int]](), dict[str, ValueError]()
    for key in keys:
        try:
            sized.append((key, num_bytes(key)))
        except ValueError as error:
            refused[key] = error
    for error in refused.values():
        if len(refused) == 1:
            raise error
        names = [names_of([key]).get(key, key) for key in refused]
        raise ShardError(f"{len(refused):,} keys have no members ({listed(names)}), the first as {error}")
    return sized


def _written(
    place: Folder, jobs: Sequence[tuple[str, list[str]]], *, members: Members, num_processes: int
) -> list[Part]:
    write = partial(_write_one, place, members=members)
    if num_processes == 1 or len(jobs) < 2:
        return [write(job) for job in jobs]
    # A forked process would inherit the locks of threads that do not exist in it.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(num_processes, len(jobs)), mp_context=context) as pool:
            return list(pool.map(write, jobs))
    except BrokenProcessPool:
        raise ShardError(f"a process that wrote shards of {place} died (memory?); run it again with fewer") from None


def _write_one(place: Folder, job: tuple[str, list[str]], *, members: Members) -> Part:
    name, keys = job
    return write_shard_in(place, name, ((key, members(key)) for key in keys))
