"""The deletion test on scores whose curves can be written down by hand."""

from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch

from memvp_core import VisualMemory
from memvp_core.locate import mask_rows, mean_over_layers, retrieval_map, scale_rows
from memvp_core.locate.faithfulness import SHARES, DeletionCurve, deletion_curve

WORTH = torch.tensor([[4.0, 1.0, 3.0, 2.0], [10.0, 40.0, 20.0, 30.0]])
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def make_memory() -> VisualMemory:
    return VisualMemory(torch.zeros(2, 4, 3), "projector")


def worth_left(memory: VisualMemory) -> float:
    """What the rows that are not blocked are worth together."""
    blocked = torch.zeros(len(memory), memory.num_rows).bool() if memory.blocked is None else memory.blocked
    return float(WORTH[: len(memory), : memory.num_rows][~blocked].sum())


def test_strongest_and_weakest_go_first() -> None:
    curve = deletion_curve(worth_left, memory=make_memory(), strength=WORTH, shares=QUARTERS)
    assert curve.strongest == (110, 66, 33, 11, 0)
    assert curve.weakest == (110, 99, 77, 44, 0)
    assert curve.shares == QUARTERS
    for order in curve.random_orders:
        assert all(low <= score <= high for low, score, high in zip(curve.strongest, order, curve.weakest, strict=True))


def test_random_orders_follow_the_seed() -> None:
    def orders(seed: int, count: int) -> tuple[tuple[float, ...], ...]:
        curve = deletion_curve(
            worth_left, memory=make_memory(), strength=WORTH, shares=QUARTERS, seed=seed, num_random_orders=count
        )
        return curve.random_orders

    assert orders(0, 3) == orders(0, 3)
    assert orders(0, 2) == orders(0, 3)[:2]
    assert orders(0, 3) != orders(1, 3)
    # Each entry has its own order, so no row is more often among the first: the mean is a straight line.
    many = deletion_curve(worth_left, memory=make_memory(), strength=WORTH, shares=QUARTERS, num_random_orders=400)
    # 12 is the spread of one order at half the rows; divided by the root of 400, times four.
    assert many.random == pytest.approx((110, 82.5, 55, 27.5, 0), abs=2.5)


def test_faithfulness_is_the_area_between_random_and_strongest() -> None:
    curve = DeletionCurve((0.0, 0.5, 1.0), (1.0, 0.2, 0.0), (1.0, 0.9, 0.0), ((1.0, 0.5, 0.0), (1.0, 0.7, 0.0)))
    assert curve.random == (1.0, 0.6, 0.0)
    # Two triangles of height 0.4 over a width of 1.
    assert curve.faithfulness == pytest.approx(0.2)
    part = DeletionCurve((0.0, 0.25), (1.0, 0.2), (1.0, 0.9), ((1.0, 0.6),))
    assert part.faithfulness == pytest.approx(0.2)
    assert set(asdict(curve)) == {"shares", "strongest", "weakest", "random_orders"}


def test_map_turned_round_is_as_unfaithful() -> None:
    settings: Any = {"memory": make_memory(), "shares": QUARTERS, "num_random_orders": 50}
    right = deletion_curve(worth_left, strength=WORTH, **settings)
    wrong = deletion_curve(worth_left, strength=-WORTH, **settings)
    assert (right.strongest, right.weakest) == (wrong.weakest, wrong.strongest)
    assert right.faithfulness > 0 > wrong.faithfulness


def test_padding_is_neither_removed_nor_counted() -> None:
    row_images = torch.tensor([[0, 0, -1, -1], [0, 0, 0, 0]])
    memory = VisualMemory(torch.zeros(2, 4, 3), "projector", row_images=row_images)
    seen: list[torch.Tensor] = []

    def score(memory: VisualMemory) -> float:
        if memory.blocked is not None:
            seen.append(memory.blocked)
        return worth_left(memory)

    curve = deletion_curve(score, memory=memory, strength=WORTH, shares=(0.0, 0.5, 1.0), num_random_orders=4)
    # Half of two rows and half of four: 4, 40 and 30; then what is left is padding, 3 and 2.
    assert curve.strongest == (110, 36, 5)
    assert not any(blocked[0, 2:].any() for blocked in seen)
    assert {int(blocked[0].sum()) for blocked in seen} == {0, 1, 2}


def test_nothing_is_scored_twice() -> None:
    seen: list[bytes] = []

    def score(memory: VisualMemory) -> float:
        assert memory.blocked is not None
        seen.append(memory.blocked.numpy().tobytes())
        return 0.0

    curve = deletion_curve(score, memory=make_memory(), strength=WORTH, num_random_orders=5)
    assert len(seen) == len(set(seen))
    assert len(seen) < 7 * len(SHARES)
    assert curve.faithfulness == 0.0


def test_equal_rows_go_in_order() -> None:
    curve = deletion_curve(worth_left, memory=make_memory(), strength=torch.zeros(2, 4), shares=(0.0, 0.25))
    assert curve.strongest == curve.weakest == (110, 96)


def test_rows_can_be_weakened_instead_of_masked() -> None:
    def worth_shown(memory: VisualMemory) -> float:
        assert memory.blocked is None
        return float((WORTH * (1.0 if memory.row_weights is None else memory.row_weights)).sum())

    half = partial(scale_rows, factor=0.5)
    curve = deletion_curve(worth_shown, memory=make_memory(), strength=WORTH, shares=(0.0, 0.25, 1.0), remove=half)
    assert curve.strongest == (110, 88, 55)


def test_rows_masked_before_stay_masked() -> None:
    memory = mask_rows(make_memory(), [0])
    curve = deletion_curve(worth_left, memory=memory, strength=WORTH, shares=(0.0, 0.5))
    assert curve.strongest[0] == 96


@torch.no_grad()
def test_row_that_carries_the_answer_is_found_in_a_model(memvp, batch) -> None:
    """Only row 2 shows something worth mentioning: the model's answer hangs on it, and the map says so."""
    model = memvp()
    ids, features = batch(batch=1, images=1)
    model.prompt.key_positions.mul_(0.01)
    model.prompt.value_positions.mul_(0.01)
    memory = scale_rows(model.encode(features), [0, 1, 3], 0.01)
    before = model(ids, memory=memory).logits[0, -1].log_softmax(-1)

    def likeness(memory: VisualMemory) -> float:
        after = model(ids, memory=memory).logits[0, -1].log_softmax(-1)
        return -float((before.exp() * (before - after)).sum())

    strength = mean_over_layers(retrieval_map(model, input_ids=ids, memory=memory).abs())[:, -1]
    curve = deletion_curve(likeness, memory=memory, strength=strength, shares=QUARTERS, num_random_orders=8)
    assert int(strength[0].argmax()) == 2
    assert curve.strongest[1] < 0.9 * curve.strongest[-1] < 0
    assert curve.weakest[3] > 0.1 * curve.weakest[-1]
    assert curve.faithfulness > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": WORTH[:1]}, r"one number per row of each entry, \(2, 4\); got the shape \(1, 4\)"),
        ({"strength": WORTH / 0}, "strength must hold finite numbers"),
        ({"shares": (0.5,)}, r"two or more rising numbers between 0 and 1, got \[0\.5\]"),
        ({"shares": (0.0, 0.5, 0.5)}, "rising"),
        ({"shares": (0.0, 1.5)}, "between 0 and 1"),
        ({"num_random_orders": 0}, "num_random_orders must be at least 1, got 0"),
    ],
)
def test_impossible_tests_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deletion_curve(worth_left, **{"memory": make_memory(), "strength": WORTH} | settings)
