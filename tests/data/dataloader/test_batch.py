"""Batches for encoder-decoders: the encoder's tokens, the decoder's, and the mean that the papers take."""

import pytest
import torch

from memvp_data.dataloader.batch import Batch
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.text import Encoded
from tests.core.tiny_models import ENCODER_DECODERS, make_tiny

PAD, START = 0, 9
SAMPLES = [
    Encoded("a", (5, 6, 2, 7, 8, 2), (-100, -100, -100, 7, 8, 2), (), 0.5),
    Encoded("b", (5, 2, 4, 2), (-100, -100, 4, 2), (), 1.0),
    Encoded("c", (3, 2, 2), (-100, -100, 2), (), 0.0),
]


def batch(**changes) -> Batch:
    settings = {"seed": 0, "global_batch_size": 3, "micro_batch_size": 3, "rank": 0, "world_size": 1}
    settings |= {"pad_token_id": PAD, "feature_shape": (1, 2), "decoder_start_token_id": START}
    (one,) = TrainingBatches(SAMPLES, None, **{**settings, **changes}).at(0)
    return one


def test_as_written_out_by_hand() -> None:
    one = batch()
    assert one.sample_ids == ("c", "b", "a")
    assert one.input_ids.tolist() == [[3, 2, PAD], [5, 2, PAD], [5, 6, 2]]
    assert one.attention_mask.tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert one.labels.tolist() == [[2, -100, -100], [4, 2, -100], [7, 8, 2]]
    assert one.decoder_input_ids is not None
    assert one.decoder_input_ids.tolist() == [[START, 2, PAD], [START, 4, 2], [START, 7, 8]]
    assert one.label_weights is not None
    assert one.label_weights.tolist() == [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0.5]]
    assert (one.num_global_labels, one.num_tokens) == (6, 13)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_the_decoder_reads_what_transformers_would_give_it(name: str) -> None:
    model = make_tiny(name)
    one = batch(decoder_start_token_id=model.config.decoder_start_token_id, pad_token_id=model.config.pad_token_id)
    expected = model.prepare_decoder_input_ids_from_labels(one.labels)
    assert one.decoder_input_ids is not None
    assert torch.equal(one.decoder_input_ids, expected)


def test_a_mean_over_samples_is_that_of_vl_pet() -> None:
    """Mean over the tokens of each sample, times its score, mean over the batch."""
    one = batch(mean_over="samples")
    losses = torch.rand(one.labels.shape)
    learnt = one.labels != -100
    assert one.label_weights is not None
    ours = (losses * learnt * one.label_weights).sum() / one.num_global_labels
    means = (losses * learnt).sum(1) / learnt.sum(1)
    torch.testing.assert_close(ours, (means * torch.tensor([0.0, 1.0, 0.5])).mean())


def test_packing_is_refused() -> None:
    with pytest.raises(ValueError, match="packed_tokens are for causal models"):
        batch(packed_tokens=8)
