"""Image features: stored once by extraction, or made by a live tower while it trains.

extract: image shards to feature shards
live: features as a tower sees them now
source: where a stage's images come from
"""
