"""The last FFN for labelled tokens alone: the loss and every gradient of the whole one, from fewer tokens."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from memvp_core import MemVPModel
from memvp_data.dataloader.batch import Batch
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.text import Encoded
from memvp_train.config import LoraSettings
from memvp_train.methods.memvp import lora_config
from memvp_train.training import loss as step
from tests.core.conftest import make_model
from tests.core.tiny_models import VOCABULARY, make_tiny
from tests.data.dataloader.test_packed_batches import MadeUpFeatures

WHOLE = ("llama", "qwen3", "gemma3", "mixtral", "qwen3_moe", "mistral", "qwen2", "phi3", "gpt_neox")
NUM_SAMPLES, LABELS = 5, 3


def _sample(number: int, *, num_labels: int) -> Encoded:
    """Labels here and there behind a prompt; every third sample has no image."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(3, VOCABULARY - 1, (9 + number,), generator=generator).tolist()
    # The first token may have a label too, which no logits are about.
    labelled = {0, *range(2, 2 + 2 * (num_labels - number % 2), 2)}
    labels = tuple(token if place in labelled else -100 for place, token in enumerate(ids))
    return Encoded(str(number), tuple(ids), labels, () if number % 3 == 0 else (f"i{number % 2}",), 1.0)


def _batch(*, num_labels: int = LABELS, **settings: Any) -> Batch:
    samples = [_sample(number, num_labels=num_labels) for number in range(NUM_SAMPLES)]
    sizes = {"global_batch_size": NUM_SAMPLES, "micro_batch_size": NUM_SAMPLES, "rank": 0, "world_size": 1}
    settings |= {"seed": 0, "pad_token_id": 0, "feature_shape": MadeUpFeatures.feature_shape}
    (batch,) = TrainingBatches(samples, MadeUpFeatures(), **sizes, **settings).at(0)
    return batch


def _model(name: str = "llama", **settings: Any) -> MemVPModel:
    model = make_model(make_tiny(name), vision_hidden_size=5, **settings)
    if name == "llama":
        model.add_lora(lora_config(LoraSettings(rank=2)))
        for key, parameter in model.trainable_state().items():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def _seen(model: MemVPModel, batch: Batch) -> tuple[dict[str, Tensor], list[int]]:
    """The loss and all gradients, and how many tokens a sequence each FFN was given."""
    tokens: list[int] = []

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        tokens.append(next(iter([*args, *kwargs.values()])).shape[1])

    handles = [
        model.language_model.get_submodule(site.last).register_forward_hook(note, with_kwargs=True)
        for site in model.injection.sites
    ]
    model.zero_grad()
    loss = step.micro_batch_loss(model, batch, device=torch.device("cpu"), dtype=torch.float64)
    loss.backward()
    for handle in handles:
        handle.remove()
    gradients = {key: value.grad.clone() for key, value in model.trainable_state().items() if value.grad is not None}
    return gradients | {"loss": loss.detach()}, tokens


@pytest.mark.parametrize("name", WHOLE)
def test_loss_and_gradients_equal_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = _model(name), _batch()
    fast, tokens = _seen(model, batch)
    assert tokens == [13, LABELS]
    monkeypatch.setattr(step, "last_ffn_where", lambda *_: nullcontext())
    slow, tokens = _seen(model, batch)
    assert tokens == [13, 13]
    # float64, sums in another order.
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)


def test_hooks_are_gone_afterwards() -> None:
    model, batch = _model(), _batch()
    ffn = model.language_model.get_submodule(model.injection.sites[-1].last)
    before = len(ffn._forward_hooks), len(ffn._forward_pre_hooks)
    _seen(model, batch)
    assert (len(ffn._forward_hooks), len(ffn._forward_pre_hooks)) == before
    with pytest.raises(RuntimeError, match="stop"), step.last_ffn_where(model, batch.labels != -100):
        raise RuntimeError("stop")
    assert (len(ffn._forward_hooks), len(ffn._forward_pre_hooks)) == before


def _checkpointed() -> MemVPModel:
    model = _model()
    model.gradient_checkpointing_enable()
    return model


@pytest.mark.parametrize(
    "model", [lambda: _model(memory_dropout=0.1), lambda: _model("gpt2"), _checkpointed], ids=["memory", "ffn", "again"]
)
def test_nothing_is_left_out_where_it_would_change_something(model: Any) -> None:
    """Dropout of the memory, dropout in the FFN, and a layer that runs twice."""
    assert set(_seen(model(), _batch())[1]) == {13}


def test_nothing_is_left_out_of_packed_rows_or_where_most_tokens_have_labels() -> None:
    assert set(_seen(_model(), _batch(packed_tokens=26))[1]) <= {25, 26}
    assert _seen(_model(), _batch(num_labels=5))[1] == [13, 5]
    batch = _batch()
    full = Batch(**{**vars(batch), "labels": batch.input_ids})
    assert _seen(_model(), full)[1] == [13, 13]


@pytest.mark.parametrize(
    "kept", [torch.zeros(2, 8, dtype=torch.bool), torch.ones(2, 8, dtype=torch.bool, device="meta")]
)
def test_nothing_is_left_out_without_labels_or_without_values(kept: Tensor) -> None:
    """A micro-batch may have no label, and a plan is traced where labels have no values."""
    model = _model()
    ffn = model.language_model.get_submodule(model.injection.sites[-1].last)
    before = len(ffn._forward_pre_hooks)
    with step.last_ffn_where(model, kept):
        assert len(ffn._forward_pre_hooks) == before
