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
verification: whether a folder still holds what it says
verified: which members are known to be sound
beside: hashing on a second core
quarantine: what a reader leaves out of a damaged folder
"""

from memvp_data.files.storage import ShardError
from memvp_data.shards.manifest import Manifest, write_manifest
from memvp_data.shards.verification import verify
from memvp_data.shards.write import load_part, save_part, write_shard, write_shards

__all__ = [
    "Manifest",
    "ShardError",
    "load_part",
    "save_part",
    "verify",
    "write_manifest",
    "write_shard",
    "write_shards",
]
