"""Images as pixels for a tower that trains along: read from image shards, decoded and preprocessed at every use."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from memvp_data.files.storage import ShardError
from memvp_data.ids import listed
from memvp_data.images.decode import ImageError, load_image
from memvp_data.images.preprocessing import PREPROCESSING, preprocess
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.reader import OnDamage, ShardReader, Verify


class PixelStore:
    """The images of a folder of image shards. It keeps nothing in memory, so it can go to loader processes."""

    def __init__(
        self,
        folder: Path | str,
        *,
        preprocessing: str,
        num_rows: int,
        upright: bool = True,
        verify: Verify = "size",
        on_damage: OnDamage = "fail",
    ) -> None:
        """`preprocessing` is a name of `PREPROCESSING`, `upright` as in `load_image`; `num_rows` says how many rows the
        tower makes of an image."""
        self._reader = ShardReader(folder, verify=verify, on_damage=on_damage)
        self._preprocessing, self._num_rows, self._upright = preprocessing, num_rows, upright

    @property
    def manifest(self) -> Manifest:
        """Manifest of the folder."""
        return self._reader.manifest

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """(3, S, S), what `load` gives of an image."""
        size = PREPROCESSING[self._preprocessing].size
        return (3, size, size)

    @property
    def num_rows(self) -> int:
        """Rows that an image brings to the memory."""
        return self._num_rows

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._reader

    def __len__(self) -> int:
        return len(self._reader)

    def load(self, image_ids: Sequence[str]) -> Tensor:
        """(n, 3, S, S) float32 in this order. Raises `ShardError` naming shard and image at a fault."""
        if not image_ids:
            return torch.zeros(0, *self.feature_shape)
        if len(missing := [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self]) > 1:
            where = f"{len(missing):,} images are not in {self._reader.folder} ({listed(missing)})"
            raise ShardError(f"{where}; write its shards with them")
        return torch.stack([self._pixels(image_id) for image_id in image_ids])

    def _pixels(self, image_id: str) -> Tensor:
        members = self._reader.read(image_id)
        shard = self._reader.folder.where(self._reader.shard_of(image_id))
        if len(members) != 1:
            raise ShardError(f"shard {shard}, key {image_id!r} has members {sorted(members)}; an image is one file")
        try:
            image = load_image(next(iter(members.values())), name=image_id, upright=self._upright)
        except ImageError as error:
            raise ShardError(f"shard {shard}: {error}") from None
        return torch.from_numpy(preprocess(image, preprocessing=self._preprocessing))
