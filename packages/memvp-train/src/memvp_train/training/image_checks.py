"""Whether images and memory fit: width, rows and images of a sample, refused by name before anything is trained."""

from collections.abc import Mapping

from memvp_core import MemVPConfig
from memvp_data.dataloader.batch_images import ImageSource
from memvp_data.dataloader.loader import check_slots
from memvp_data.dataloader.token_table import TokenTable
from memvp_data.ids import listed
from memvp_train.config import StageRun, VisionConfig
from memvp_train.features.source import image_source
from memvp_train.models.pretrained import ModelError
from memvp_train.models.vision import feature_shape
from memvp_train.training.token_cache import EncodedTable


def check_stage_images(run: StageRun, tables: Mapping[str, EncodedTable]) -> None:
    """Refuse images that are missing, or that the memory cannot take; `tables` by the file of their samples."""
    source = image_source(run)
    if source is None:
        return
    memvp = MemVPConfig.from_dict(run.memvp)
    _check_size(run, source=source, memvp=memvp)
    for samples, table in tables.items():
        _check_presence(run, samples=samples, table=table, source=source)
        _check_entries(table, num_rows=source.num_rows, memvp=memvp)


def _check_size(run: StageRun, *, source: ImageSource, memvp: MemVPConfig) -> None:
    """Refuse images whose features are wider, or whose rows are more, than the memory takes."""
    if run.vision is not None:
        check_tower_shape(run.vision, memvp)
        return
    num_rows, width = source.feature_shape
    remedy = "extract features with the other tower"
    _check_shape(num_rows, width, memvp=memvp, what=f"features in {run.features}", remedy=remedy)


def check_tower_shape(vision: VisionConfig, memvp: MemVPConfig) -> None:
    """Refuse a tower whose features, by its config alone, the memory does not take."""
    shape, what = feature_shape(vision), f"features of {vision.path}"
    _check_shape(shape.num_rows, shape.width, memvp=memvp, what=what, remedy="take another tower")


def _check_shape(num_rows: int, width: int, *, memvp: MemVPConfig, what: str, remedy: str) -> None:
    if width != memvp.vision_hidden_size:
        raise ModelError(
            f"{what} are {width} wide, memvp.vision_hidden_size is {memvp.vision_hidden_size}; "
            f"set it to {width} or {remedy}"
        )
    if num_rows > memvp.num_slots and memvp.position_mode == "add":
        raise ModelError(
            f"{what} have {num_rows} rows per image, memvp.num_slots is {memvp.num_slots}; set it to {num_rows} or more"
        )


def _check_presence(run: StageRun, *, samples: str, table: EncodedTable, source: ImageSource) -> None:
    missing = sorted(image_id for image_id in table.image_ids if image_id not in source)
    if missing:
        found = "have no features in" if run.features is not None else "are not in"
        raise ModelError(
            f"{len(missing)} images of {samples} {found} {run.features or run.images} ({listed(missing)}); "
            f"{'extract features of' if run.features is not None else 'write shards with'} all images first"
        )


def _check_entries(table: TokenTable, *, num_rows: int, memvp: MemVPConfig) -> None:
    """Refuse, by name, a sample whose images do not fit side by side into the memory."""
    most = int(table.entry_sizes.max(initial=0))
    if memvp.position_mode == "add":
        check_slots(table, num_rows=num_rows, num_slots=memvp.num_slots)
    if 1 < memvp.num_images < most:
        name = table[table.image_numbers.tolist().index(int(table.entry_sizes.argmax()))].id
        raise ModelError(
            f"sample {name!r} has {most} images, memvp.num_images is {memvp.num_images}; set it to {most} or more"
        )
