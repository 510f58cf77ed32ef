"""The loss of a global batch does not depend on how it is cut into micro-batches."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from memvp_train.training.loss import token_loss_sum


def _loop_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log p(label | what stands before it), one token at a time."""
    total = torch.zeros((), dtype=logits.dtype)
    for row in range(labels.shape[0]):
        for place in range(1, labels.shape[1]):
            if labels[row, place] != -100:
                total = total - torch.log_softmax(logits[row, place - 1], dim=-1)[labels[row, place]]
    return total


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 7))
def test_sum_equals_the_loop_in_value_and_gradient(seed: int, batch: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, tokens, 5, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (batch, tokens), generator=generator)
    labels[torch.rand(batch, tokens, generator=generator) < 0.5] = -100
    fast, slow = token_loss_sum(logits, labels), _loop_loss(logits, labels)
    torch.testing.assert_close(fast, slow)
    (fast_gradient,) = torch.autograd.grad(fast, logits)
    slow_gradient = torch.autograd.grad(slow, logits)[0] if slow.requires_grad else torch.zeros_like(logits)
    torch.testing.assert_close(fast_gradient, slow_gradient)


def test_rows_in_any_split_add_up_to_the_mean_of_the_whole() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 9, 5), torch.randint(0, 5, (6, 9))
    labels[:, ::2] = -100
    count = int((labels[:, 1:] != -100).sum())
    whole = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    for cut in (1, 2, 5):
        parts = [token_loss_sum(logits[rows], labels[rows]) / count for rows in (slice(0, cut), slice(cut, 6))]
        torch.testing.assert_close(sum(parts), whole)


def test_weights_count_each_label_and_ones_change_nothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 5), torch.randint(0, 5, (3, 6))
    labels[:, 2] = -100
    weights = torch.rand(3, 6)
    terms = [
        weights[row, place]
        * _loop_loss(logits[row : row + 1, place - 1 : place + 1], labels[row, None, place - 1 : place + 1])
        for row in range(3)
        for place in range(1, 6)
    ]
    torch.testing.assert_close(token_loss_sum(logits, labels, weights), sum(terms))
    torch.testing.assert_close(token_loss_sum(logits, labels, torch.ones(3, 6)), token_loss_sum(logits, labels))
