"""Which samples a failure comes from: every rank knows its own, and all ranks say the same sentence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from memvp_train.engines.local import Engine

_MOST_NAMED = 16
SampleIds = tuple[str, ...]


def named(sample_ids: Sequence[str]) -> str:
    """Ids as far as a sentence can hold them."""
    more = f" and {len(sample_ids) - _MOST_NAMED} more" if len(sample_ids) > _MOST_NAMED else ""
    return ", ".join(sample_ids[:_MOST_NAMED]) + more


def suspects(engine: Engine, *, losses: Tensor, samples: Sequence[SampleIds]) -> str:
    """The samples behind a global loss or gradient that is not finite, named alike on all ranks; all must call it.

    `losses` (M,) are those of this rank's M micro-batches, `samples` their ids. Where every loss is finite and only the
    gradient is not, any of them may be it.
    """
    pairs = list(zip(losses.tolist(), samples, strict=True))
    guilty = [one for loss, ids in pairs if not torch.isfinite(torch.tensor(loss)) for one in ids]
    return _joined(engine, guilty) or _joined(engine, [one for ids in samples for one in ids])


def _joined(engine: Engine, sample_ids: Sequence[str]) -> str:
    """The ids of all ranks; texts go from rank to rank as sums of bytes, the only exchange that engines have."""
    text = named(sample_ids).encode()
    lengths = _spread(engine, [len(text)], width=1).flatten().tolist()
    rows = _spread(engine, list(text), width=max(map(int, lengths)))
    texts = [bytes(row[: int(length)].long().tolist()).decode() for row, length in zip(rows, lengths, strict=True)]
    return ", ".join(text for text in texts if text)


def _spread(engine: Engine, values: Sequence[int], *, width: int) -> Tensor:
    """(ranks, width) float64: what each rank gave, on every rank."""
    table = torch.zeros(engine.world_size, width, dtype=torch.float64)
    table[engine.rank, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return engine.sum_over_ranks(table.to(engine.device)).cpu()
