"""Plans hold every sample once, keep to their limits, and give all ranks equally many micro-batches."""

from hypothesis import given
from hypothesis import strategies as st

from memvp_data.dataloader.packing import image_blocks, micro_batches, packed_rows, rows_by_image, shared_out

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=40)


@given(lengths=LENGTHS, extra=st.integers(0, 30))
def test_rows_hold_every_sample_once_within_their_length(lengths: list[int], extra: int) -> None:
    row_tokens = max(lengths) + extra
    rows = packed_rows(lengths, row_tokens=row_tokens)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    sizes = sorted(sum(lengths[place] for place in row) for row in rows)
    assert sizes[-1] <= row_tokens
    # First fit leaves no two rows that would have fitted into one.
    assert len(sizes) == 1 or sizes[0] + sizes[1] > row_tokens


def test_packing_fills_rows() -> None:
    lengths = [place % 37 + 3 for place in range(500)]
    rows = packed_rows(lengths, row_tokens=256)
    assert sum(lengths) / (256 * len(rows)) > 0.98


@given(
    samples=st.lists(st.tuples(st.integers(1, 20), st.integers(-1, 4)), min_size=1, max_size=40),
    max_rows=st.integers(1, 9),
    extra=st.integers(0, 60),
)
def test_micro_batches_keep_the_budget_and_images_together(samples, max_rows, extra) -> None:
    lengths, images = [length for length, _ in samples], [image for _, image in samples]
    budget = max(lengths) + extra
    rows = rows_by_image(lengths, images=images)
    seen = [images[row[0]] for row in rows]
    for image in set(images) - {-1}:
        first = seen.index(image)
        assert seen[first : first + seen.count(image)] == [image] * seen.count(image)
    batches = micro_batches(rows, lengths=lengths, max_rows=max_rows, token_budget=budget)
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) * max(lengths[row[0]] for row in batch) <= budget


@given(
    lengths=LENGTHS,
    per_rank=st.integers(1, 6),
    world_size=st.sampled_from([1, 2, 3, 4]),
    max_rows=st.integers(1, 9),
    is_packed=st.booleans(),
)
def test_every_rank_has_equally_many(lengths, per_rank, world_size, max_rows, is_packed) -> None:
    lengths = (lengths * per_rank * world_size)[: per_rank * world_size]
    rows = packed_rows(lengths, row_tokens=40) if is_packed else rows_by_image(lengths, images=[-1] * len(lengths))
    batches = micro_batches(rows, lengths=lengths, max_rows=max_rows, token_budget=None)
    shares = shared_out(batches, lengths=lengths, world_size=world_size)
    assert len({len(share) for share in shares}) == 1
    places = [place for share in shares for batch in share for row in batch for place in row]
    assert sorted(places) == list(range(len(lengths)))
    assert all(batch and all(batch) for share in shares for batch in share)
    # Halving makes as few more as it must.
    assert len(batches) <= len(shares) * len(shares[0]) < len(batches) + world_size


@given(
    samples=st.lists(st.tuples(st.integers(1, 20), st.integers(-1, 4)), min_size=1, max_size=20),
    world_size=st.sampled_from([1, 2, 4]),
    max_rows=st.integers(1, 9),
)
def test_blocks_of_images_are_equally_large_on_all_ranks(samples, world_size, max_rows) -> None:
    lengths, images = zip(*samples * world_size, strict=True)
    shares = [
        image_blocks(lengths, images=images, rank=rank, world_size=world_size, max_rows=max_rows)
        for rank in range(world_size)
    ]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    assert all(0 < len(batch) <= max_rows for share in shares for batch in share)
    places = [row[0] for share in shares for batch in share for row in batch]
    assert sorted(places) == list(range(len(lengths)))
    # Cut once for every border between blocks, no more.
    blocks = [{images[row[0]] for row in batch} - {-1} for share in shares for batch in share]
    assert sum(map(len, blocks)) <= len(set(images) - {-1}) + len(blocks) - 1


def test_ranks_get_level_work() -> None:
    lengths = list(range(1, 65))
    rows = rows_by_image(lengths, images=[-1] * 64)
    batches = micro_batches(rows, lengths=lengths, max_rows=8, token_budget=None)
    shares = shared_out(batches, lengths=lengths, world_size=4)
    costs = [sum(len(batch) * max(lengths[row[0]] for row in batch) for batch in share) for share in shares]
    assert max(costs) == min(costs)
