"""Members of records made from their keys alone, for tests that write shards in other processes; imports nothing."""

import hashlib
import os


def members_of(key: str) -> dict[str, bytes]:
    """Different for every key, in length too."""
    return {"txt": hashlib.sha256(key.encode()).digest() * (int(key[1:]) % 40), "json": b"{}"}


def num_bytes_of(key: str) -> int:
    """How long `members_of` are."""
    return 32 * (int(key[1:]) % 40) + 2


def dies(key: str) -> dict[str, bytes]:
    """Ends its process as the kernel does when memory is out."""
    os.kill(os.getpid(), 9)
    return {}
