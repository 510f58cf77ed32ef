"""Batches of a training step: tokens padded to the right, each image's features once, and an index from row to image.

A step is a pure function of its number. Every rank works out the whole global batch, plans how it is cut (packing.py)
and takes its share, so the samples of a step are the same for any number of ranks and resuming needs no state at all.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memvp_data.dataloader.batch import Batch as Batch
from memvp_data.dataloader.batch import Segment, collate
from memvp_data.dataloader.batch import padded as padded
from memvp_data.dataloader.batch_images import ImageSource, shown_images
from memvp_data.dataloader.grouping import GroupedOrder
from memvp_data.dataloader.packing import (
    PackedRow,
    image_blocks,
    micro_batches,
    packed_rows,
    rows_by_image,
    shared_out,
    strided,
)
from memvp_data.dataloader.rows import SampleRows, rows_of
from memvp_data.dataloader.state import LoaderState
from memvp_data.ids import listed
from memvp_data.order import global_batch, global_positions
from memvp_data.text import Encoded


class TrainingBatches:
    """This rank's micro-batches of any step."""

    def __init__(
        self,
        encoded: Sequence[Encoded] | SampleRows,
        source: ImageSource | None,
        *,
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        pad_token_id: int,
        feature_shape: tuple[int, ...],
        num_slots: int | None = None,
        decoder_start_token_id: int | None = None,
        questions_per_image: int = 0,
        token_budget: int | None = None,
        packed_tokens: int | None = None,
        mean_over: Literal["tokens", "samples"] = "tokens",
    ) -> None:
        """`source` gives features, (g, c) an image, or pixels (`PixelStore`), (3, S, S); None is for text only, and
        `feature_shape` then the shape of the zero images. `num_slots` are the rows that the memory can take.

        With `decoder_start_token_id` batches are for an encoder-decoder, whose decoder begins with that token.

        A micro-batch has `micro_batch_size` rows. A `token_budget` allows fewer: rows x longest row must not exceed it.
        With `packed_tokens` a row holds several samples, up to that many tokens. Both give micro-batches of different
        sizes, still equally many on every rank. `questions_per_image` above 0 keeps that many questions of an image
        together. `mean_over` "samples" weights every sample alike, however long its answer.

        Raises `ValueError` before any step if sizes do not fit, an image is missing or a sample has too many.
        """
        _check_sizes(global_batch_size, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
        if not len(encoded):
            raise ValueError("there are no samples to train on; check the data file and max_length")
        self.rows = rows_of(encoded)
        check_tokens(self.rows, token_budget=token_budget, packed_tokens=packed_tokens)
        if decoder_start_token_id is not None and packed_tokens is not None:
            raise ValueError("packed_tokens are for causal models; leave it out for an encoder-decoder")
        _check_images(self.rows, source=source, feature_shape=feature_shape)
        if source is not None and num_slots is not None:
            check_slots(self.rows, num_rows=source.num_rows, num_slots=num_slots)
        self.decoder_start_token_id = decoder_start_token_id
        self.source, self.feature_shape, self.pad_token_id = source, feature_shape, pad_token_id
        self.seed, self.global_batch_size, self.micro_batch_size = seed, global_batch_size, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.token_budget, self.packed_tokens, self.mean_over = token_budget, packed_tokens, mean_over
        self.questions_per_image = questions_per_image
        self._grouped = (
            GroupedOrder(self.rows.image_numbers, seed=seed, run_length=questions_per_image)
            if questions_per_image
            else None
        )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step on each rank, without token budget and packing; with them every step has its own."""
        return -(-self.global_batch_size // (self.world_size * self.micro_batch_size))

    def state(self, step: int) -> LoaderState:
        """The place before `step`, for a checkpoint; the same on every rank."""
        order = f"by image, {self.questions_per_image}" if self.questions_per_image else "shuffled"
        return LoaderState(step, self.seed, self.global_batch_size, len(self.rows), order, self.rows.digest)

    def resume(self, state: LoaderState) -> int:
        """The step to go on with; `ResumeError` naming the differences if `state` belongs to another stream."""
        return state.resumed_by(self.state(state.step))

    def at(self, step: int) -> list[Batch]:
        """This rank's micro-batches of global step `step` (from 0); equally many on every rank."""
        chosen, rows = self._chosen(step)
        lengths = self.rows.lengths(rows)
        num_labels = int(self.rows.num_labels(rows).sum())
        divisor = num_labels if self.mean_over == "tokens" else self.global_batch_size
        plan = self._plan(lengths, images=self.rows.image_numbers[chosen])
        return [self._collated(batch, chosen=chosen, rows=rows, divisor=divisor) for batch in plan]

    def _chosen(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples of a global batch, and the row of each (which of its answers it has in this epoch)."""
        size, num_samples = self.global_batch_size, len(self.rows)
        if self._grouped is not None:
            chosen = self._grouped.batch(step=step, batch_size=size)
        else:
            chosen = global_batch(seed=self.seed, step=step, batch_size=size, num_samples=num_samples)
        epochs = global_positions(step=step, batch_size=size, num_samples=num_samples) // num_samples
        return chosen, self.rows.drawn_rows(chosen, seed=self.seed, epochs=epochs)

    def _plan(self, lengths: NDArray[np.integer], *, images: NDArray[np.integer]) -> list[list[PackedRow]]:
        sizes, share = lengths.tolist(), {"rank": self.rank, "world_size": self.world_size}
        shown = images.tolist() if self.questions_per_image else [-1] * len(sizes)
        if self.packed_tokens is not None:
            order = [row[0] for row in rows_by_image(sizes, images=shown)] if self.questions_per_image else None
            rows = packed_rows(sizes, row_tokens=self.packed_tokens, order=order)
        elif self.token_budget is not None:
            rows = rows_by_image(sizes, images=shown)
        elif self.questions_per_image:
            return image_blocks(sizes, images=shown, **share, max_rows=self.micro_batch_size)
        else:
            return strided(lengths, **share, max_rows=self.micro_batch_size)
        batches = micro_batches(rows, lengths=sizes, max_rows=self.micro_batch_size, token_budget=self.token_budget)
        return shared_out(batches, lengths=sizes, world_size=self.world_size)[self.rank]

    def _collated(
        self, batch: list[PackedRow], *, chosen: NDArray[np.int64], rows: NDArray[np.int64], divisor: int
    ) -> Batch:
        samples = [[self.rows.row(int(rows[place]), place=int(chosen[place])) for place in row] for row in batch]
        segments = [[Segment(one, self._weight(one)) for one in row] for row in samples]
        entries = list(dict.fromkeys(one.image_ids for row in samples for one in row if one.image_ids))
        return collate(
            segments,
            shown=shown_images(entries, source=self.source, feature_shape=self.feature_shape),
            entries={image_ids: place for place, image_ids in enumerate(entries)},
            pad_token_id=self.pad_token_id,
            num_global_labels=divisor,
            is_packed=self.packed_tokens is not None,
            decoder_start_token_id=self.decoder_start_token_id,
        )

    def _weight(self, sample: Encoded) -> float:
        return sample.weight if self.mean_over == "tokens" else sample.weight / sample.num_labels


def _check_sizes(global_batch_size: int, *, micro_batch_size: int, rank: int, world_size: int) -> None:
    if min(global_batch_size, micro_batch_size, world_size) < 1 or not 0 <= rank < world_size:
        sizes = f"{global_batch_size}, {micro_batch_size}, rank {rank} of {world_size}"
        raise ValueError(f"batch sizes must be positive and the rank below the number of ranks, got {sizes}")
    if global_batch_size % world_size:
        nearest = max(1, global_batch_size // world_size) * world_size
        raise ValueError(
            f"global_batch_size {global_batch_size} must divide among {world_size} ranks; {nearest} would, for example"
        )


def check_tokens(rows: SampleRows, *, token_budget: int | None, packed_tokens: int | None) -> None:
    """Refuse limits of a micro-batch or a row that a sample exceeds on its own."""
    for name, limit in (("packed_tokens", packed_tokens), ("token_budget", token_budget)):
        if limit is not None and limit < rows.longest:
            raise ValueError(
                f"{name} {limit} is less than the longest sample, {rows.longest} tokens; raise it or lower max_length"
            )
    if token_budget is not None and packed_tokens is not None and token_budget < packed_tokens:
        raise ValueError(f"token_budget {token_budget} must hold a row of packed_tokens {packed_tokens}; raise it")


def _check_images(rows: SampleRows, *, source: ImageSource | None, feature_shape: tuple[int, ...]) -> None:
    if source is not None and source.feature_shape != tuple(feature_shape):
        raise ValueError(f"features are {source.feature_shape} per image, the model expects {tuple(feature_shape)}")
    missing = [name for name in rows.image_names() if source is None or name not in source]
    if missing:
        samples = (rows.row(rows.first_row(place), place=place) for place in range(len(rows)))
        sample = next(one for one in samples if missing[0] in one.image_ids)
        where = "no feature store was given" if source is None else "the feature store does not have it"
        others = f", as it lacks {len(missing):,} images ({listed(missing)})" if source and len(missing) > 1 else ""
        raise ValueError(f"sample {sample.id!r} needs image {missing[0]!r}, but {where}{others}; extract its features")


def check_slots(rows: SampleRows, *, num_rows: int, num_slots: int) -> None:
    """Refuse samples whose images, of `num_rows` rows each, do not fit side by side into the memory."""
    shown = rows.image_numbers
    most = int(rows.entry_sizes.max(initial=0)) if len(shown) and shown.max() >= 0 else 0
    if most * num_rows > num_slots:
        number = int(np.argmax(shown == int(rows.entry_sizes.argmax())))
        name = rows.row(rows.first_row(number), place=number).id
        raise ValueError(
            f"sample {name!r} has {most} image(s) of {num_rows} rows, the memory has num_slots {num_slots}; "
            f"set it to {most * num_rows} or more"
        )
