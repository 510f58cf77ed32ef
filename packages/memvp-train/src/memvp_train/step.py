"""The loss of one micro-batch, scaled so that its gradient over ranks and micro-batches is that of one global mean.

Dimensions: B sequences, T tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memvp_data.batch import Batch, attention_bias

IGNORED = -100


def token_loss_sum(logits_BTV: Tensor, labels_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Sum over labelled tokens of -log p(label | what stands before it) times its weight; 0 when none is labelled.

    It has a gradient even then. Only the logits of labelled tokens are raised to fp32: with a large vocabulary and long
    prompts that is most of the memory of a training step.
    """
    targets_BT = labels_BT[:, 1:]
    kept_BT = targets_BT != IGNORED
    logits, targets = logits_BTV[:, :-1][kept_BT].float(), targets_BT[kept_BT]
    if weights_BT is None:
        return F.cross_entropy(logits, targets, reduction="sum")
    return (F.cross_entropy(logits, targets, reduction="none") * weights_BT[:, 1:][kept_BT]).sum()


def micro_batch_loss(model: nn.Module, batch: Batch, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """This micro-batch's share of the global mean loss per label token.

    The sum of these over all micro-batches of all ranks is the loss of the global batch, whatever the split.
    """
    output = model(
        input_ids=batch.input_ids.to(device),
        **_attention(batch, device=device, dtype=dtype),
        visual_features=batch.visual_features.to(device=device, dtype=dtype),
        image_index=batch.image_index.to(device),
    )
    weights = None if batch.label_weights is None else batch.label_weights.to(device)
    return token_loss_sum(output.logits, batch.labels.to(device), weights) / batch.num_global_labels


def _attention(batch: Batch, *, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The mask of padding; of packed rows, where each token may look and its position in its own sample."""
    if batch.segments is None or batch.position_ids is None:
        return {"attention_mask": batch.attention_mask.to(device)}
    bias = attention_bias(batch.segments.to(device), dtype=dtype)
    return {"attention_mask": bias, "position_ids": batch.position_ids.to(device)}
