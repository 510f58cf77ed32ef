"""The loss of one micro-batch, scaled so that its gradient over ranks and micro-batches is that of one global mean.

Dimensions: B sequences, T tokens, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memvp_data.dataloader.batch import Batch, attention_bias
from memvp_train.training.last_ffn import last_ffn_where

IGNORED = -100


def token_loss_sum(
    logits_BTV: Tensor, labels_BT: Tensor, weights_BT: Tensor | None = None, *, shift: bool = True
) -> Tensor:
    """Sum over labelled tokens of -log p(label | what stands before it) times its weight; 0 when none is labelled.

    It has a gradient even then. A causal model's logits are about the token after theirs; with `shift=False`, for the
    decoder of an encoder-decoder, they are about their own. Only the logits of labelled tokens are raised to fp32: with
    a large vocabulary and long prompts that is most of the memory of a training step.
    """
    if shift:
        logits_BTV, labels_BT = logits_BTV[:, :-1], labels_BT[:, 1:]
        weights_BT = None if weights_BT is None else weights_BT[:, 1:]
    kept_BT = labels_BT != IGNORED
    logits, targets = logits_BTV[kept_BT].float(), labels_BT[kept_BT]
    if weights_BT is None:
        return F.cross_entropy(logits, targets, reduction="sum")
    return (F.cross_entropy(logits, targets, reduction="none") * weights_BT[kept_BT]).sum()


def micro_batch_loss(model: nn.Module, batch: Batch, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """This micro-batch's share of the global mean loss per label token.

    The sum of these over all micro-batches of all ranks is the loss of the global batch, whatever the split.
    """
    weights = None if batch.label_weights is None else batch.label_weights.to(device)
    is_causal = batch.decoder_input_ids is None
    with last_ffn_where(model, _before_labels(batch.labels) if is_causal and batch.segments is None else None):
        output = model(**model_inputs(batch, device=device, dtype=dtype))
    return token_loss_sum(output.logits, batch.labels.to(device), weights, shift=is_causal) / batch.num_global_labels


def _before_labels(labels_BT: Tensor) -> Tensor:
    """(B, T) whether the logits of a token are about a label, that of the token after it."""
    return F.pad(labels_BT[:, 1:] != IGNORED, (0, 1))


def model_inputs(batch: Batch, *, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the model is called with, labels left out: text, and images as features or as pixels."""
    inputs = {
        "input_ids": batch.input_ids,
        "image_index": batch.image_index,
        "row_images": batch.row_images,
        "decoder_input_ids": batch.decoder_input_ids,
    }
    if batch.pixel_values is None:
        inputs["visual_features"] = batch.visual_features.to(dtype=dtype)
    else:
        inputs["pixel_values"] = batch.pixel_values.to(dtype=dtype)
    given = {name: value.to(device) for name, value in inputs.items() if value is not None}
    return given | _attention(batch, device=device, dtype=dtype)


def _attention(batch: Batch, *, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The mask of padding; of packed rows, where each token may look and its position in its own sample."""
    if batch.segments is None or batch.position_ids is None:
        return {"attention_mask": batch.attention_mask.to(device)}
    bias = attention_bias(batch.segments.to(device), dtype=dtype)
    return {"attention_mask": bias, "position_ids": batch.position_ids.to(device)}
