"""Vision towers: which layers, tokens and norm make the features, adapters inside, CLIP's ResNets.

tower: a frozen vision model with adapters inside
features: which layers, tokens and norm make its features
clip_resnet: the image tower of CLIP's ResNets
clip_resnet_weights: its weights, whatever they are called
"""

from memvp_core.vision.features import FEATURE_PRESETS, TOWERS, FeatureSpec, tower_features

__all__ = ["FEATURE_PRESETS", "TOWERS", "FeatureSpec", "tower_features"]
