"""Packed rows give each text the loss, and the model the gradients, that the texts give by themselves."""

import pytest
import torch
from torch import Tensor

from memvp_core import MemVPModel
from memvp_data.dataloader.batch import Batch, attention_bias
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.text import Encoded
from tests.core.conftest import make_model
from tests.core.tiny_models import VOCABULARY, make_tiny

NUM_SAMPLES, ROWS_PER_IMAGE, WIDTH = 12, 3, 5
# float64 with sums in another order; transformers' eager attention takes its softmax in float32.
CLOSE = {"sdpa": {"rtol": 1e-9, "atol": 1e-11}, "eager": {"rtol": 1e-6, "atol": 1e-7}}


class MadeUpFeatures:
    """Random features of any image."""

    feature_shape = (ROWS_PER_IMAGE, WIDTH)
    num_rows = ROWS_PER_IMAGE

    def __contains__(self, image_id: object) -> bool:
        return True

    def load(self, image_ids, dtype=torch.float64) -> Tensor:
        seeds = [torch.Generator().manual_seed(int(image_id[1:])) for image_id in image_ids]
        return torch.stack([torch.randn(self.feature_shape, generator=seed, dtype=dtype) for seed in seeds])


def sample(number: int) -> Encoded:
    generator = torch.Generator().manual_seed(number)
    length = number % 5 + 3
    ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
    first = 1 + number % 2
    labels = (*[-100] * first, *ids[first:])
    image_ids = () if number % 4 == 0 else (f"i{number % 3}",)
    return Encoded(str(number), tuple(ids), labels, image_ids, 1 - number / 20)


def loader(**changes) -> TrainingBatches:
    settings = {"seed": 0, "global_batch_size": 8, "micro_batch_size": 4, "rank": 0, "world_size": 1}
    samples = [sample(number) for number in range(NUM_SAMPLES)]
    shape = MadeUpFeatures.feature_shape
    return TrainingBatches(samples, MadeUpFeatures(), pad_token_id=0, feature_shape=shape, **{**settings, **changes})


def losses(model: MemVPModel, batch: Batch) -> dict[str, Tensor]:
    """The weighted loss of each sample, by id."""
    packed = {}
    if batch.segments is not None:
        packed = {"position_ids": batch.position_ids}
    mask = batch.attention_mask if batch.segments is None else attention_bias(batch.segments, dtype=torch.float64)
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=mask,
        visual_features=batch.visual_features,
        image_index=batch.image_index,
        **packed,
    ).logits
    targets = batch.labels[:, 1:].clamp_min(0)
    terms = -logits[:, :-1].log_softmax(-1).gather(-1, targets[..., None])[..., 0] * (batch.labels[:, 1:] != -100)
    if batch.label_weights is not None:
        terms = terms * batch.label_weights[:, 1:]
    if batch.segments is None:
        return dict(zip(batch.sample_ids, terms.sum(dim=1), strict=True))
    names, found = iter(batch.sample_ids), {}
    for row, segments in enumerate(batch.segments[:, 1:]):
        for number in range(int(segments.max()) + 1):
            found[next(names)] = terms[row][segments == number].sum()
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mean_over", ["tokens", "samples"])
def test_packed_texts_give_the_losses_of_the_texts_by_themselves(attention: str, mean_over: str) -> None:
    model = make_model(make_tiny(attn_implementation=attention), num_slots=ROWS_PER_IMAGE, vision_hidden_size=WIDTH)
    sums, gradients = [], []
    for options in ({}, {"packed_tokens": 16}, {"packed_tokens": 30, "micro_batch_size": 1}):
        found: dict[str, Tensor] = {}
        batches = loader(mean_over=mean_over, **options).at(2)
        for batch in batches:
            found |= losses(model, batch)
        total = torch.stack(list(found.values())).sum() / batches[0].num_global_labels
        gradients.append(torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad]))
        sums.append(found)
    rows = [batch.input_ids.shape[0] for batch in loader(packed_tokens=30).at(2)]
    assert sum(rows) < 8  # some rows do hold several texts
    for found, gradient in zip(sums[1:], gradients[1:], strict=True):
        assert found.keys() == sums[0].keys()
        for name, loss in found.items():
            torch.testing.assert_close(loss, sums[0][name], **CLOSE[attention])
        for one, other in zip(gradient, gradients[0], strict=True):
            torch.testing.assert_close(one, other, **CLOSE[attention])


def test_a_packed_row_as_written_out_by_hand() -> None:
    samples = [Encoded("a", (5, 6, 7), (-100, 6, 7), ("i2",)), Encoded("b", (8, 9), (-100, 9), (), 0.5)]
    settings = {"seed": 0, "global_batch_size": 2, "micro_batch_size": 2, "rank": 0, "world_size": 1}
    (batch,) = TrainingBatches(
        samples, MadeUpFeatures(), **settings, pad_token_id=0, feature_shape=(3, 5), packed_tokens=5
    ).at(0)
    assert batch.segments is not None
    assert batch.position_ids is not None
    assert batch.label_weights is not None
    assert batch.sample_ids == ("a", "b")
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.labels.tolist() == [[-100, 6, 7, -100, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1]]
    assert batch.image_index.tolist() == [[0, 0, 0, -1, -1]]
    assert batch.label_weights.tolist() == [[1, 1, 1, 0.5, 0.5]]
    allowed = attention_bias(batch.segments, dtype=torch.float32)[0, 0] == 0
    assert allowed.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_a_sample_longer_than_a_row_is_refused_before_the_first_step() -> None:
    with pytest.raises(
        ValueError, match="packed_tokens 6 is less than the longest sample, 7 tokens; raise it or lower"
    ):
        loader(packed_tokens=6)
    with pytest.raises(ValueError, match="token_budget 6 is less than the longest sample, 7 tokens; raise it or lower"):
        loader(token_budget=6)
    with pytest.raises(ValueError, match="token_budget 8 must hold a row of packed_tokens 9; raise it"):
        loader(token_budget=8, packed_tokens=9)
