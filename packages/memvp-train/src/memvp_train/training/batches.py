"""The batches that a rank trains on, from the settings of a stage: its table of tokens and its images.

The driver checks both before any worker starts (`check_source`), every worker makes its own (`training_batches`).
"""

from pathlib import Path
from typing import Any

from memvp_core import MemVPConfig
from memvp_data.dataloader.batch_images import ImageSource
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.features import FeatureStore
from memvp_data.shards.reader import Verify
from memvp_train.config import LaunchConfig, StageRun
from memvp_train.features.live import pixel_store
from memvp_train.models.language import ModelError
from memvp_train.models.vision import feature_shape
from memvp_train.training.feature_checks import check_entries, check_features, check_shape
from memvp_train.training.token_cache import EncodedTable
from memvp_train.training.validation_batches import ValidationBatches


def image_source(run: StageRun, *, verify: Verify = "size") -> ImageSource | None:
    """Stored features, pixels for a live tower, or None for a blind control. `verify` as of `ShardReader`."""
    if run.features is not None:
        return FeatureStore(run.features, verify=verify)
    if run.images is not None and run.vision is not None:
        return pixel_store(run.images, run.vision)
    return None


def training_batches(
    run: StageRun, launch: LaunchConfig, config: dict[str, Any], *, rank: int, world_size: int
) -> TrainingBatches:
    """This rank's micro-batches of any step; `config` is that of `prepare_stage`."""
    stage = run.stage
    table = EncodedTable(
        Path(run.out) / "encoded.safetensors",
        key=config["encoded_key"],
        with_images=run.features is not None or run.images is not None,
    )
    num_read = config["num_steps"] * stage.global_batch_size // world_size
    # Hashing every shard once, beside training, costs less than hashing what is read, from when all of it is read. A
    # copy in a loader process would not hear of it.
    once = num_read > len(table) and not launch.loader_processes
    source = image_source(run, verify="background" if once else "size")
    memvp = MemVPConfig.from_dict(run.memvp)
    return TrainingBatches(
        table,
        source,
        seed=stage.seed,
        global_batch_size=stage.global_batch_size,
        micro_batch_size=stage.micro_batch_size,
        rank=rank,
        world_size=world_size,
        pad_token_id=table.pad_token_id,
        feature_shape=(1, memvp.vision_hidden_size) if source is None else source.feature_shape,
        num_slots=memvp.num_slots if memvp.position_mode == "add" else None,
        decoder_start_token_id=config["decoder_start_token_id"],
        questions_per_image=stage.questions_per_image,
        token_budget=stage.token_budget,
        packed_tokens=stage.packed_tokens,
        mean_over=stage.mean_over,
    )


def validation_batches(run: StageRun, config: dict[str, Any], *, rank: int, world_size: int) -> ValidationBatches:
    """This rank's share of the validation table; `config` is that of `prepare_stage`."""
    source = image_source(run)
    table = EncodedTable(
        Path(run.out) / "validation.safetensors", key=config["validation_key"], with_images=source is not None
    )
    return ValidationBatches(
        table,
        source,
        feature_shape=(1, run.memvp["vision_hidden_size"]) if source is None else source.feature_shape,
        batch_size=run.stage.micro_batch_size,
        pad_token_id=table.pad_token_id,
        decoder_start_token_id=config["decoder_start_token_id"],
        rank=rank,
        world_size=world_size,
    )


def check_source(run: StageRun, *, table: EncodedTable) -> None:
    """Refuse images that are missing, or that the memory cannot take, before anything is trained."""
    source, folder = image_source(run), run.features or run.images
    if source is None or folder is None:
        return
    if isinstance(source, FeatureStore):
        check_features(source, memvp=run.memvp, folder=folder)
    elif run.vision is not None:
        shape, what = feature_shape(run.vision), f"features of {run.vision.path}"
        check_shape(shape.num_rows, shape.width, memvp=run.memvp, what=what, remedy="take another tower")
    missing = sorted(image_id for image_id in table.image_ids if image_id not in source)
    if missing:
        found = "have no features in" if run.features is not None else "are not in"
        raise ModelError(
            f"{len(missing)} images of {run.samples} {found} {folder}, first {missing[0]!r}; "
            f"{'extract features of' if run.features is not None else 'write shards with'} all images first"
        )
    check_entries(table, num_rows=source.num_rows, memvp=run.memvp)
