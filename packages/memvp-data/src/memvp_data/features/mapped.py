"""Shards of this machine's disks as arrays of their bytes: mapped once, and anew when a file has changed.

Copying out of a map costs half of reading into a tensor. What is cut while it is copied ends the process (SIGBUS), as
with any map; shards are replaced whole, never changed in place.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from memvp_data.files.storage import ShardError, Signature
from memvp_data.shards.reader import ShardReader
from memvp_data.shards.verified import ShardState

Mapped = NDArray[np.uint8]


class MappedShards:
    """The shards of a reader. Holds no open files; a copy in another process maps anew."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader
        self._maps: dict[str, tuple[ShardState, Mapped]] = {}

    def at(self, shard: str) -> tuple[Mapped, ShardState]:
        """The bytes of a shard, unchecked, and its state from before they are read."""
        state, known = self.reader.sound.state(shard), self._maps.get(shard)
        if known is None or known[0] is not state:
            known = self._maps[shard] = state, self._mapped(shard, state.signature)
        return known[1], state

    def _mapped(self, shard: str, signature: Signature | None) -> Mapped:
        path, num_bytes = self.reader.path_of(shard), 0 if signature is None else signature[0]
        try:
            if not num_bytes:
                raise OSError("it is gone or empty")
            # Private: torch would lengthen a shared file. It closes the file, where mmap keeps one open per shard.
            return torch.from_file(str(path), shared=False, size=num_bytes, dtype=torch.uint8).numpy()
        except (OSError, RuntimeError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ShardError(f"shard {path} cannot be read ({reason}); write the shards again") from None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": {}}
