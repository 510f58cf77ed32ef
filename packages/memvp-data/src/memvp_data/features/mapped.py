"""Shards of this machine's disks as arrays of their bytes: mapped once, and anew when a file has changed.

Copying out of a map costs a half to two thirds of reading into a tensor. As with any map, a file that is cut, or a disk
that fails, while bytes are being copied ends the process (SIGBUS): shards are replaced whole, never changed in place.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from memvp_data.shards.reader import ShardReader
from memvp_data.shards.verified import ShardState

Mapped = NDArray[np.uint8]
_NOTHING = np.zeros(0, dtype=np.uint8)


class MappedShards:
    """The shards of a reader. Holds no open files; a copy in another process maps anew."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader
        self._maps: dict[str, tuple[ShardState, Mapped]] = {}

    def at(self, shard: str) -> tuple[Mapped, ShardState]:
        """The bytes of a shard, unchecked, and its state from before they are read; no bytes if it cannot be mapped."""
        state, known = self.reader.sound.state(shard), self._maps.get(shard)
        if known is None or known[0] is not state:
            known = self._maps[shard] = state, self._mapped(shard, state)
        return known[1], state

    def _mapped(self, shard: str, state: ShardState) -> Mapped:
        if state.signature is None or not (num_bytes := state.signature[0]):
            return _NOTHING
        path = str(self.reader.path_of(shard))
        try:
            # Private, as torch would lengthen a shared file. It closes the file, where mmap keeps one open per shard.
            return torch.from_file(path, shared=False, size=num_bytes, dtype=torch.uint8).numpy()
        except (OSError, RuntimeError):
            return _NOTHING  # whoever reads it the other way says why it cannot

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": {}}
