"""Which members are known to be sound: each is hashed once, and again only after its shard has changed.

What is known holds while a shard keeps its length, its times and its inode as they were before the member was read.
Only shards on local disks can be trusted so; elsewhere every member is hashed whenever it is read, which costs less
than fetching it.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memvp_data.files.storage import Folder, ShardError, Signature
from memvp_data.shards.layout import IndexRow, ShardEntry
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.verification import FOREIGN, hash_faults, is_sound, member_faults


@dataclass(frozen=True, eq=False)
class ShardState:
    """A shard as it is until it changes. Whoever read it in this state may add to what is known of it."""

    signature: Signature | None
    """None where changes cannot be told."""
    known: NDArray[np.bool_]
    """Which of its members, in the order of the index, are known to be sound."""


class SoundMembers:
    """The members of a folder that are known to be sound, by their number in the index, and a thread that gets to know
    all of them."""

    def __init__(self, folder: Folder, *, manifest: Manifest, index: pa.Table) -> None:
        self._folder, self._manifest, self._index = folder, manifest, index
        self._states: dict[str, ShardState] = {}
        self._fault: str | None = None
        self._thread: threading.Thread | None = None

    def state(self, shard: str) -> ShardState:
        """The state of a shard now: the same object as before, or a new one of which nothing is known where it changed.

        To be asked for before reading, and again after: if it is the same, nothing has changed between. Raises
        `ShardError` if the thread has found a fault.
        """
        self.raise_fault()
        now, state = self._signature(shard), self._states.get(shard)
        if state is not None and now is not None and state.signature == now:
            return state
        fresh = ShardState(now, np.zeros(len(self._numbers[shard]), dtype=bool))
        state = self._states.setdefault(shard, fresh)  # two threads may come first
        if now is None or state.signature != now:
            state = self._states[shard] = fresh
        return state

    def knows(self, state: ShardState, number: int) -> bool:
        """Whether a member, by its number in the index, is known to be sound in a state of its shard."""
        return bool(state.known[self._positions[number]])

    def add(self, state: ShardState, number: int) -> None:
        """Note that a member had the right hash when it was read in this state, or after it."""
        if state.signature is not None:
            state.known[self._positions[number]] = True

    def __contains__(self, shard: str) -> bool:
        """Whether all members of a shard are known to be sound."""
        state = self.state(shard)
        return state.signature is not None and bool(state.known.all())

    def hash(self, entry: ShardEntry) -> list[str]:
        """Hash one shard whole; its faults, [] if it is sound."""
        state = self.state(entry.name)
        faults = hash_faults(self._folder, entry=entry, index=self._index, is_ours=self._is_ours)
        if not faults and state.signature is not None:
            state.known[:] = True
        return faults

    def start(self) -> None:
        """Get to know all members in a thread that does not keep the process alive."""
        self._thread = threading.Thread(target=self._check_all, name="memvp-verify", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the thread is done. Raises `ShardError` if it found a fault."""
        if self._thread is not None:
            self._thread.join()
        self.raise_fault()

    def raise_fault(self) -> None:
        """Raise `ShardError` if the thread has found one by now."""
        if self._fault is not None:
            raise ShardError(self._fault)

    def _check_all(self) -> None:
        for entry in self._manifest.shards:
            for fault in self._check(entry):
                self._fault = fault
                return

    def _check(self, entry: ShardEntry) -> list[str]:
        """Faults of a shard, from the hashes of its members alone: what lies between is known byte for byte."""
        if not self._is_ours:
            return self.hash(entry)
        state, at = self.state(entry.name), defaultdict[int, list[int]](list)
        numbers = self._numbers[entry.name]
        for offset, number in zip(self._index["offset"].take(pa.array(numbers)).to_pylist(), numbers, strict=True):
            at[offset].append(number)

        def is_known(file: BinaryIO, row: IndexRow) -> bool:
            if any(not self.knows(state, number) for number in at[row.offset]):
                if not is_sound(file, row):
                    return False
                for number in at[row.offset]:
                    self.add(state, number)
            return True

        return member_faults(self._folder, entry=entry, index=self._index, is_known=is_known)

    @property
    def _is_ours(self) -> bool:
        return not self._manifest.meta.get(FOREIGN)

    @cached_property
    def _numbers(self) -> dict[str, NDArray[np.int64]]:
        """The numbers of each shard's members."""
        names = self._index["shard"].combine_chunks().dictionary_encode()
        codes = names.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum([0, *np.bincount(codes, minlength=len(names.dictionary))])
        found = {name: order[a:b] for name, (a, b) in zip(names.dictionary.to_pylist(), pairwise(ends), strict=True)}
        empty = np.zeros(0, dtype=np.int64)
        return {entry.name: found.get(entry.name, empty) for entry in self._manifest.shards}

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        """Of every member by its number, its place among those of its shard."""
        places = np.zeros(len(self._index), dtype=np.int64)
        for numbers in self._numbers.values():
            places[numbers] = np.arange(len(numbers))
        return places

    def _signature(self, shard: str) -> Signature | None:
        try:
            return self._folder.signature(shard)
        except OSError:
            return None

    def __getstate__(self) -> dict[str, object]:
        """A copy in another process knows what is known by now; the thread stays here."""
        return {**self.__dict__, "_thread": None}
