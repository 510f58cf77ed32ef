"""Shards: plain tars of images or features with an index and a manifest; written, read, verified.

write: write shards
parallel: write them in several processes
deduplication: store equal images once
reader: read members by key or in order
manifest: what a folder of shards holds
index: key to shard, offset, size and hash
layout: the entry of a shard and the row of a member
tar: the tar format as far as shards need it
foreign: webdataset tars of others
verify: whether a folder still holds what it says
verified: which shards were hashed already
quarantine: what a reader leaves out of a damaged folder
"""

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
