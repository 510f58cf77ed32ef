"""Where a stage's images come from: stored features, pixels for a live tower, or nowhere."""

from memvp_data.dataloader.batch_images import ImageSource
from memvp_data.features import FeatureStore
from memvp_data.shards.reader import Verify
from memvp_train.config import StageRun
from memvp_train.features.live import pixel_store


def image_source(run: StageRun, *, verify: Verify = "size") -> ImageSource | None:
    """Stored features, pixels for a live tower, or None for a blind control. `verify` as of `ShardReader`."""
    if run.features is not None:
        return FeatureStore(run.features, verify=verify)
    if run.images is not None and run.vision is not None:
        return pixel_store(run.images, run.vision)
    return None
