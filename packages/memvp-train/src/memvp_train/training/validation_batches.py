"""Every sample of a validation table once, spread so that each rank makes equally many forward passes.

Under ZeRO-3 ranks wait for each other in every layer, so where samples run out the last is repeated and not counted.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from memvp_data.dataloader.batch import Batch, Segment, collate
from memvp_data.dataloader.batch_images import ImageSource, shown_images
from memvp_data.dataloader.rows import SampleRows


class ValidationBatches:
    """This rank's share of a table, in the order of length; each batch with what counts of it.

    Of a question with several answers one is drawn by its soft score, the same at every evaluation.
    """

    def __init__(
        self,
        rows: SampleRows,
        source: ImageSource | None,
        *,
        feature_shape: tuple[int, ...],
        batch_size: int,
        pad_token_id: int,
        decoder_start_token_id: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`source` may be None for text only; the other settings are those of `TrainingBatches`."""
        self._rows, self._source, self._feature_shape = rows, source, feature_shape
        self._pad_token_id, self._decoder_start_token_id = pad_token_id, decoder_start_token_id
        self._rank, self._world_size, self._batch_size = rank, world_size, batch_size
        places = np.arange(len(rows), dtype=np.int64)
        drawn = rows.drawn_rows(places, seed=0, epochs=np.zeros_like(places))
        self._places = np.argsort(rows.lengths(drawn), kind="stable")
        self._drawn = drawn

    def __len__(self) -> int:
        """Forward passes of every rank."""
        return -(-len(self._rows) // (self._batch_size * self._world_size))

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        """Batches of B rows, and (B,) bool: which of them count."""
        joint = self._batch_size * self._world_size
        for start in range(0, len(self._places), joint):
            chosen = self._places[start : start + joint]
            size = -(-len(chosen) // self._world_size)
            numbers = np.arange(self._rank * size, (self._rank + 1) * size)
            yield self._collated(chosen[np.minimum(numbers, len(chosen) - 1)]), torch.from_numpy(numbers < len(chosen))

    def _collated(self, places: np.ndarray) -> Batch:
        samples = [self._rows.row(int(self._drawn[place]), place=int(place)) for place in places]
        entries = list(dict.fromkeys(one.image_ids for one in samples if one.image_ids))
        return collate(
            [[Segment(one, one.weight)] for one in samples],
            shown=shown_images(entries, source=self._source, feature_shape=self._feature_shape),
            entries={image_ids: number for number, image_ids in enumerate(entries)},
            pad_token_id=self._pad_token_id,
            num_global_labels=1,
            is_packed=False,
            decoder_start_token_id=self._decoder_start_token_id,
        )
