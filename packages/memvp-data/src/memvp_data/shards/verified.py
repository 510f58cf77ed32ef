"""Which shards have been hashed whole since they last changed: their members need no second look.

A shard counts as hashed while its length, time and inode stay as they were when its hash was taken. Only shards on
local disks can be trusted so; elsewhere every member is hashed when it is read, which costs less than fetching it.
"""

import threading

import pyarrow as pa

from memvp_data.files.storage import Folder, ShardError, Signature
from memvp_data.shards.layout import ShardEntry
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.verification import FOREIGN, hash_faults


class HashedShards:
    """The shards of a folder that are known to be sound, and a thread that gets to know the others."""

    def __init__(self, folder: Folder, *, manifest: Manifest, index: pa.Table) -> None:
        self._folder, self._manifest, self._index = folder, manifest, index
        self._signatures: dict[str, Signature] = {}
        self._fault: str | None = None
        self._thread: threading.Thread | None = None

    def __contains__(self, shard: str) -> bool:
        known = self._signatures.get(shard)
        return known is not None and known == self._signature(shard)

    def hash(self, entry: ShardEntry) -> list[str]:
        """Hash one shard; its faults, [] if it is sound."""
        before = self._signature(entry.name)
        faults = hash_faults(self._folder, entry=entry, index=self._index, is_ours=not self._manifest.meta.get(FOREIGN))
        if not faults and before is not None and before == self._signature(entry.name):
            self._signatures[entry.name] = before
        return faults

    def start(self) -> None:
        """Hash all shards in a thread that does not keep the process alive."""
        self._thread = threading.Thread(target=self._hash_all, name="memvp-verify", daemon=True)
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

    def _hash_all(self) -> None:
        for entry in self._manifest.shards:
            for fault in self.hash(entry):
                self._fault = fault
                return

    def _signature(self, shard: str) -> Signature | None:
        try:
            return self._folder.signature(shard)
        except OSError:
            return None

    def __getstate__(self) -> dict[str, object]:
        """A copy in another process knows what is known by now; the thread stays here."""
        return {**self.__dict__, "_thread": None}
