"""Image features by image id, read from feature shards.

store: features by image id, from a folder of shards
rows: features of local shards, copied into the tensor of a batch
mapped: local shards as arrays of their bytes
"""

from memvp_data.features.store import SUFFIX, FeatureStore, feature_record, parse_features, pooled

__all__ = ["SUFFIX", "FeatureStore", "feature_record", "parse_features", "pooled"]
