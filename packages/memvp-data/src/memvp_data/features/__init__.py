"""Image features by image id, read from feature shards."""

from memvp_data.features.store import SUFFIX, FeatureStore, feature_record, parse_features, pooled

__all__ = ["SUFFIX", "FeatureStore", "feature_record", "parse_features", "pooled"]
