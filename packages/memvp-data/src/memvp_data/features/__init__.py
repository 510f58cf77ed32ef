"""Image features by image id, read from feature shards.

store: features by image id, from a folder of shards
rows: features of local shards, read without a copy
"""

from memvp_data.features.store import SUFFIX, FeatureStore, feature_record, parse_features, pooled

__all__ = ["SUFFIX", "FeatureStore", "feature_record", "parse_features", "pooled"]
