"""Vision towers: which layers, tokens and norm make the features, adapters inside, CLIP's ResNets."""

from memvp_core.vision.features import FEATURE_PRESETS, TOWERS, FeatureSpec, tower_features

__all__ = ["FEATURE_PRESETS", "TOWERS", "FeatureSpec", "tower_features"]
