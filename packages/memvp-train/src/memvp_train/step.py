"""The loss of one micro-batch, scaled so that its gradient over ranks and micro-batches is that of one global mean.

Dimensions: B sequences, T tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memvp_data.loader import Batch

IGNORED = -100


def token_loss_sum(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Sum over labelled tokens of -log p(label | what stands before it); 0 with a gradient when none is labelled.

    Only the logits of labelled tokens are raised to fp32: with a large vocabulary and long prompts that is most of
    the memory of a training step.
    """
    targets_BT = labels_BT[:, 1:]
    kept_BT = targets_BT != IGNORED
    return F.cross_entropy(logits_BTV[:, :-1][kept_BT].float(), targets_BT[kept_BT], reduction="sum")


def micro_batch_loss(model: nn.Module, batch: Batch, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """This micro-batch's share of the global mean loss per label token.

    The sum of these over all micro-batches of all ranks is the loss of the global batch, whatever the split.
    """
    output = model(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        visual_features=batch.visual_features.to(device=device, dtype=dtype),
        image_index=batch.image_index.to(device),
    )
    return token_loss_sum(output.logits, batch.labels.to(device)) / batch.num_global_labels
