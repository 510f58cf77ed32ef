"""The batches that a rank trains on and is evaluated on, from the plan of a stage: a table of tokens and its images."""

from pathlib import Path

from memvp_core import MemVPConfig
from memvp_data.dataloader.loader import TrainingBatches
from memvp_train.features.source import image_source
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.token_cache import TABLES, EncodedTable
from memvp_train.training.validation_batches import ValidationBatches


def training_batches(plan: WorkerPlan, *, rank: int, world_size: int) -> TrainingBatches:
    """This rank's micro-batches of any step."""
    run, stage = plan.run, plan.run.stage
    with_images = run.features is not None or run.images is not None
    table = EncodedTable(Path(run.out) / TABLES["samples"], key=plan.samples_key, with_images=with_images)
    num_read = plan.num_steps * stage.global_batch_size // world_size
    # Where all of it will be read, a thread hashes ahead of training. A copy in a loader process would not hear of it.
    once = num_read > len(table) and not plan.launch.loader_processes
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
        decoder_start_token_id=plan.decoder_start_token_id,
        questions_per_image=stage.questions_per_image,
        token_budget=stage.token_budget,
        packed_tokens=stage.packed_tokens,
        mean_over=stage.mean_over,
    )


def validation_batches(plan: WorkerPlan, *, rank: int, world_size: int) -> ValidationBatches:
    """This rank's share of the validation table, which the plan must have."""
    run = plan.run
    assert plan.validation_key is not None
    source = image_source(run)
    path = Path(run.out) / TABLES["validation"]
    table = EncodedTable(path, key=plan.validation_key, with_images=source is not None)
    return ValidationBatches(
        table,
        source,
        feature_shape=(1, run.memvp["vision_hidden_size"]) if source is None else source.feature_shape,
        batch_size=run.stage.micro_batch_size,
        pad_token_id=table.pad_token_id,
        decoder_start_token_id=plan.decoder_start_token_id,
        rank=rank,
        world_size=world_size,
    )
