"""Shards: plain tars of images or features with an index and a manifest; written, read, verified."""

from memvp_data.shards.write import (
    MAX_SHARD_BYTES,
    MAX_SHARD_SAMPLES,
    Manifest,
    ShardError,
    begin,
    grouped,
    load_part,
    save_part,
    shard_name,
    verify,
    write_manifest,
    write_shard,
    write_shard_in,
    write_shards,
)

__all__ = [
    "MAX_SHARD_BYTES",
    "MAX_SHARD_SAMPLES",
    "Manifest",
    "ShardError",
    "begin",
    "grouped",
    "load_part",
    "save_part",
    "shard_name",
    "verify",
    "write_manifest",
    "write_shard",
    "write_shard_in",
    "write_shards",
]
