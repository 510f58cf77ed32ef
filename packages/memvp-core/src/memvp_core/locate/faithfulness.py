"""Whether a map tells the truth: block the rows it calls strong and see if answers suffer more than from random ones.

This is the deletion test of feature attribution (RISE, arXiv 1806.07421), on rows of the memory instead of pixels: the
model is not changed and sees no grey patches, which it was never trained on; the rows are gone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memvp_core.locate.editing import mask_rows
from memvp_core.visual_memory import VisualMemory

Score = Callable[[VisualMemory], float]
"""How well the model does with a memory: the accuracy over one question per entry, say."""

Remove = Callable[[VisualMemory, Tensor], VisualMemory]
"""Takes away the rows that are True in (I, P)."""

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class DeletionCurve:
    """Scores after a share of the rows is removed from every image, in three orders."""

    shares: tuple[float, ...]
    """Share of an image's rows that are removed, 0 to 1, rising."""

    strongest: tuple[float, ...]
    """Scores where the strongest rows went first."""

    weakest: tuple[float, ...]
    """Scores where the weakest went first."""

    random_orders: tuple[tuple[float, ...], ...]
    """Scores of each random order."""

    @property
    def random(self) -> tuple[float, ...]:
        """Mean over the random orders."""
        return tuple(sum(scores) / len(scores) for scores in zip(*self.random_orders, strict=True))

    @property
    def faithfulness(self) -> float:
        """How much lower the score is, over all shares, where the strongest rows go than where random ones go.

        The area between the two curves, by trapezoids, over the width of the shares. Above 0 the map knows something;
        0 is what a map of random numbers gets.
        """
        gaps = [random - strongest for random, strongest in zip(self.random, self.strongest, strict=True)]
        area = sum(
            (right - left) * (gaps[number] + gaps[number + 1]) / 2
            for number, (left, right) in enumerate(pairwise(self.shares))
        )
        return area / (self.shares[-1] - self.shares[0])


def deletion_curve(
    score: Score,
    *,
    memory: VisualMemory,
    strength: Float[Tensor, "I P"],
    shares: Sequence[float] = SHARES,
    num_random_orders: int = 3,
    seed: int = 0,
    remove: Remove = mask_rows,
) -> DeletionCurve:
    """Score a memory without its strongest, its weakest and random rows, more and more of them.

    `strength` says how strong each row is: a map of the question that the score asks of the entry, averaged over
    layers and tokens. Where several questions share an image, give the entry once for each (`memory[[0, 0, 1]]`).
    Rows that only pad an entry are left out and not counted. `remove` may weaken instead of mask:
    `partial(scale_rows, factor=0.0)`.
    """
    _check(memory, strength, shares=shares, num_random_orders=num_random_orders)
    shown = _shown_rows(memory)
    known: dict[bytes, float] = {}

    def score_without(removed: Tensor) -> float:
        # Orders agree where nothing or all is removed, and in small images oftener.
        name = removed.cpu().numpy().tobytes()
        if name not in known:
            known[name] = float(score(remove(memory, removed)))
        return known[name]

    def curve(order: Tensor) -> tuple[float, ...]:
        return tuple(score_without(_first(order, share=share, shown=shown)) for share in shares)

    strength = strength.to(shown.device)
    random_orders = _random_strengths(strength, count=num_random_orders, seed=seed)
    return DeletionCurve(
        shares=tuple(map(float, shares)),
        strongest=curve(strength),
        weakest=curve(-strength),
        random_orders=tuple(curve(order) for order in random_orders),
    )


def _first(strength: Tensor, *, share: float, shown: Tensor) -> Bool[Tensor, "I P"]:
    """The strongest rows of each entry, a share of those that show something; of equal ones the first."""
    order = strength.double().masked_fill(~shown, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (rank < (share * shown.sum(dim=1, keepdim=True)).round()) & shown


def _random_strengths(strength: Tensor, *, count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.rand(strength.shape, generator=generator).to(strength.device)


def _shown_rows(memory: VisualMemory) -> Bool[Tensor, "I P"]:
    if memory.row_images is None:
        return torch.ones(memory.codes.shape[:2], dtype=torch.bool, device=memory.codes.device)
    return memory.row_images >= 0


def _check(memory: VisualMemory, strength: Tensor, *, shares: Sequence[float], num_random_orders: int) -> None:
    shape = tuple(memory.codes.shape[:2])
    if tuple(strength.shape) != shape:
        raise ValueError(
            f"strength must have one number per row of each entry, {shape}; got the shape {tuple(strength.shape)}: "
            "average the map over layers and tokens, and repeat the entries of images that are asked about twice."
        )
    if not bool(strength.isfinite().all()):
        raise ValueError("strength must hold finite numbers, got NaN or infinity: no order follows from those.")
    if len(shares) < 2 or not all(left < right for left, right in pairwise(shares)) or shares[0] < 0 or shares[-1] > 1:
        raise ValueError(f"shares must be two or more rising numbers between 0 and 1, got {list(shares)}.")
    if num_random_orders < 1:
        raise ValueError(f"num_random_orders must be at least 1, got {num_random_orders}.")
