"""Whether images and memory fit: width, rows and images of a sample, refused by name before anything is trained."""

from typing import Any

from memvp_core import MemVPConfig
from memvp_data.dataloader.loader import check_slots
from memvp_data.dataloader.token_table import TokenTable
from memvp_data.features import FeatureStore
from memvp_train.models.pretrained import ModelError as ModelError
from memvp_train.models.pretrained import resolve_path as resolve_path
from memvp_train.models.vision import build_tower as build_tower


def check_features(store: FeatureStore, *, memvp: dict[str, Any], folder: str) -> None:
    """Refuse features whose width or number of rows the memory cannot take."""
    rows, width = store.feature_shape
    check_shape(rows, width, memvp=memvp, what=f"features in {folder}", remedy="extract features with the other tower")


def check_shape(num_rows: int, width: int, *, memvp: dict[str, Any], what: str, remedy: str) -> None:
    """Refuse rows of an image that are of another width, or more, than the memory takes."""
    config = MemVPConfig.from_dict(memvp)
    if width != config.vision_hidden_size:
        raise ModelError(
            f"{what} are {width} wide, memvp.vision_hidden_size is {config.vision_hidden_size}; "
            f"set it to {width} or {remedy}"
        )
    if num_rows > config.num_slots and config.position_mode == "add":
        raise ModelError(
            f"{what} have {num_rows} rows per image, memvp.num_slots is {config.num_slots}; "
            f"set it to {num_rows} or more"
        )


def check_entries(table: TokenTable, *, num_rows: int, memvp: dict[str, Any]) -> None:
    """Refuse, by name, a sample whose images do not fit side by side into the memory."""
    config = MemVPConfig.from_dict(memvp)
    most = int(table.entry_sizes.max(initial=0))
    if config.position_mode == "add":
        check_slots(table, num_rows=num_rows, num_slots=config.num_slots)
    if 1 < config.num_images < most:
        name = table[table.image_numbers.tolist().index(int(table.entry_sizes.argmax()))].id
        raise ModelError(
            f"sample {name!r} has {most} images, memvp.num_images is {config.num_images}; set it to {most} or more"
        )
