"""Made ahead in any number of processes, batches are the same, in the same order."""

import time

import pytest
import torch

from memvp_data.dataloader.batch import Batch
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.dataloader.prefetch import PrefetchedBatches, Throughput
from memvp_data.text import Encoded


def batches(**changes) -> TrainingBatches:
    samples = [Encoded(str(n), (1, *[n + 2] * (n % 5 + 1)), (-100, *[n + 2] * (n % 5 + 1)), ()) for n in range(22)]
    settings = {"seed": 3, "global_batch_size": 4, "micro_batch_size": 2, "rank": 0, "world_size": 1}
    return TrainingBatches(samples, None, pad_token_id=0, feature_shape=(1, 2), **{**settings, **changes})


def same(one: list[Batch], other: list[Batch]) -> bool:
    tensors = [
        torch.equal(value, dict(right.tensors())[name])
        for left, right in zip(one, other, strict=True)
        for name, value in left.tensors()
    ]
    return all(tensors) and [batch.sample_ids for batch in one] == [batch.sample_ids for batch in other]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_any_number_of_workers_gives_the_same_batches(num_workers: int) -> None:
    for world_size in (1, 2):
        plain = batches(world_size=world_size, rank=world_size - 1)
        ahead = PrefetchedBatches(plain, num_steps=14, num_workers=num_workers)
        # Resumed at step 2, then stopped and resumed once more, over the ends of the epochs at samples 22 and 44.
        for step in (*range(2, 7), *range(5, 14)):
            assert same(ahead.at(step), plain.at(step))
        ahead.close()


def test_training_draws_the_same_numbers_with_any_number_of_workers() -> None:
    drawn = []
    for num_workers in (0, 1):
        torch.manual_seed(0)
        ahead = PrefetchedBatches(batches(), num_steps=3, num_workers=num_workers)
        ahead.at(0)
        drawn.append(torch.rand(1))
        ahead.close()
    assert drawn[0] == drawn[1]


class Slow:
    """A step takes 0.1 s to make."""

    def at(self, step: int) -> list[Batch]:
        time.sleep(0.1)
        return batches().at(step)


def test_the_share_of_waiting_is_measured() -> None:
    ahead = PrefetchedBatches(Slow(), num_steps=5, num_workers=0)
    for step in range(5):
        ahead.at(step)
        time.sleep(0.1)
    # Five waits of 0.1 s, four pauses of 0.1 s; a busy machine makes both longer.
    assert 0.35 < ahead.throughput.waiting_share < 0.8
    assert ahead.throughput.seconds >= 0.9
    assert ahead.throughput.num_samples == 20


def test_the_report_counts_tokens_and_images() -> None:
    throughput = Throughput()
    assert str(throughput).startswith("0 tokens/s, 0 images/s, 0%")
    made = batches().at(0)
    throughput.add(made, asked=10.0, given=10.5)
    throughput.add(made, asked=11.5, given=12.0)
    tokens = 2 * sum(int(batch.attention_mask.sum()) for batch in made)
    assert throughput.num_tokens == tokens
    assert str(throughput) == f"{tokens / 2:,.0f} tokens/s, 0 images/s, 50% of the time waiting for data"


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="step 3 is not one of the 3 steps"):
        PrefetchedBatches(batches(), num_steps=3, num_workers=0).at(3)
    with pytest.raises(
        ValueError, match="expected num_workers from 0, steps_ahead and num_steps from 1 on, got -1, 2, 3"
    ):
        PrefetchedBatches(batches(), num_steps=3, num_workers=-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_with_a_gpu_batches_come_in_page_locked_memory() -> None:
    ahead = PrefetchedBatches(batches(), num_steps=2, num_workers=1)
    assert all(value.is_pinned() for batch in ahead.at(0) for _, value in batch.tensors())
    ahead.close()
