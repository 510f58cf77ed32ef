"""Batches made ahead of the training step, in worker processes, in exactly the order they are asked for.

A worker makes whole steps, so neither their number nor how they are scheduled has any say in what a batch holds.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset

from memvp_data.dataloader.batch import Batch


class Batches(Protocol):
    """The micro-batches of any step; `TrainingBatches` is one."""

    def at(self, step: int, /) -> list[Batch]: ...


@dataclass
class Throughput:
    """What went through the loader since it was made or last reset."""

    num_tokens: int = 0
    """Tokens, padding not counted."""
    num_images: int = 0
    """Entries of images that were loaded."""
    num_samples: int = 0
    """Samples."""
    waiting: float = 0.0
    """Seconds the training loop waited for batches."""
    started: float | None = None
    """When the first batch was asked for, by `time.perf_counter`."""
    ended: float = 0.0
    """When the last batch was handed over."""

    def add(self, batches: list[Batch], *, asked: float, given: float) -> None:
        """Count the micro-batches of a step that was asked for and given at these times."""
        self.started = asked if self.started is None else self.started
        self.waiting, self.ended = self.waiting + given - asked, given
        self.num_tokens += sum(batch.num_tokens for batch in batches)
        self.num_images += sum(batch.num_entries for batch in batches)
        self.num_samples += sum(len(batch.sample_ids) for batch in batches)

    @property
    def seconds(self) -> float:
        """From the first request to the last batch."""
        return 0.0 if self.started is None else self.ended - self.started

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second, waiting and training together."""
        return self.num_tokens / max(self.seconds, 1e-9)

    @property
    def images_per_second(self) -> float:
        """Images a second, waiting and training together."""
        return self.num_images / max(self.seconds, 1e-9)

    @property
    def waiting_share(self) -> float:
        """Share of the time that the training loop waited, 0 to 1."""
        return self.waiting / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        return (
            f"{self.tokens_per_second:,.0f} tokens/s, {self.images_per_second:,.0f} images/s, "
            f"{self.waiting_share:.0%} of the time waiting for data"
        )


class PrefetchedBatches:
    """The same micro-batches, made ahead by `num_workers` processes; with 0 they are made when asked for.

    Steps are best asked for one after the other; any other step starts anew there. With a GPU they come in page-locked
    memory. `throughput` says how much came through and how long the loop waited; read it every so often.
    """

    def __init__(self, batches: Batches, *, num_steps: int, num_workers: int = 2, steps_ahead: int = 2) -> None:
        """`num_steps` is the last step + 1; `steps_ahead` how many steps each worker may be ahead."""
        if num_workers < 0 or steps_ahead < 1 or num_steps < 1:
            raise ValueError(
                f"expected num_workers from 0, steps_ahead and num_steps from 1 on, got {num_workers}, {steps_ahead}, "
                f"{num_steps}"
            )
        self.batches, self.num_steps = batches, num_steps
        self.num_workers, self.steps_ahead = num_workers, steps_ahead
        self.throughput = Throughput()
        self._next, self._stream = -1, cast(Iterator[list[Batch]], iter(()))

    def at(self, step: int) -> list[Batch]:
        """This rank's micro-batches of global step `step`."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step {step} is not one of the {self.num_steps} steps; give num_steps the last step + 1")
        asked = time.perf_counter()
        if step != self._next:
            self._stream = self._started(step)
        made = next(self._stream)
        self._next = step + 1
        self.throughput.add(made, asked=asked, given=time.perf_counter())
        return made

    def close(self) -> None:
        """Stop the workers."""
        self._next, self._stream = -1, cast(Iterator[list[Batch]], iter(()))

    def _started(self, step: int) -> Iterator[list[Batch]]:
        self.close()
        loader = DataLoader(
            _Steps(self.batches),
            batch_size=None,
            sampler=range(step, self.num_steps),
            num_workers=self.num_workers,
            prefetch_factor=self.steps_ahead if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_one_thread,
            # Without one of its own it would draw from the generator that training draws dropout from.
            generator=torch.Generator(),
        )
        return iter(loader)


class _Steps(Dataset[list[Batch]]):
    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> list[Batch]:
        return self._batches.at(step)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
