"""Packed rows and soft scores through the whole step: the loss and gradients of the samples by themselves."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.text import Encoded
from memvp_train.config import LaunchConfig
from memvp_train.methods.memvp import build_memvp_model
from memvp_train.models.language import build_language_model
from memvp_train.training.batches import training_batches
from memvp_train.training.loss import micro_batch_loss
from tests.core.conftest import make_model
from tests.core.tiny_models import ARCHITECTURES, ENCODER_DECODERS, make_tiny
from tests.data.dataloader.test_packed_batches import MadeUpFeatures, sample
from tests.train.conftest import COLOURS, image_names
from tests.train.plans import plan_of

NUM_SAMPLES = 12
SIZES = {"seed": 0, "global_batch_size": NUM_SAMPLES, "micro_batch_size": 3, "rank": 0, "world_size": 1}


def _loss(model: Any, samples: list[Encoded], **settings: Any) -> torch.Tensor:
    batches = TrainingBatches(
        samples, MadeUpFeatures(), pad_token_id=0, feature_shape=MadeUpFeatures.feature_shape, **SIZES, **settings
    )
    return sum(  # type: ignore[return-value]
        micro_batch_loss(model, batch, device=torch.device("cpu"), dtype=torch.float64) for batch in batches.at(0)
    )


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in (*ENCODER_DECODERS, "llava")])
def test_packed_loss_and_gradients_equal_the_samples_own(name: str) -> None:
    settings = {"sliding_window": 64} if name == "gemma3" else {}  # its own is narrower than these samples
    model = make_model(make_tiny(name, **settings), vision_hidden_size=5).eval()  # no dropout
    samples = [sample(number) for number in range(NUM_SAMPLES)]
    gradients = []
    for packed_tokens in (None, 16):
        model.zero_grad()
        loss = _loss(model, samples, packed_tokens=packed_tokens)
        loss.backward()
        gradients.append({key: value.grad.clone() for key, value in model.trainable_state().items()} | {"loss": loss})
    # float64, sums in another order, and some models take their softmax in float32.
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_soft_scores_weight_the_loss_of_a_stage(tiny: Any, tmp_path: Path) -> None:
    """From the answer weights of a samples table to the loss: sum of w * loss over all label tokens by their number."""
    weights = (1.0, 0.6, 0.3, 0.0)
    table = [
        Sample(
            f"sample-{number}",
            (image_names()[number],),
            (Turn("user", "what colour ?"),),
            task="vqa",
            answers=(COLOURS[number],),
            answer_weights=(weight,),
        )
        for number, weight in enumerate(weights)
    ]
    write_samples(tmp_path / "soft.parquet", table)
    run = dataclasses.replace(
        tiny.run(tmp_path / "out", global_batch_size=4, micro_batch_size=2), samples=str(tmp_path / "soft.parquet")
    )
    launch = LaunchConfig(num_workers=0)
    prepared = plan_of(run, launch)
    model = build_memvp_model(build_language_model(tiny.language), memvp=tiny.memvp, lora=None, init_adapter=None)
    model.eval()
    batches = training_batches(prepared, rank=0, world_size=1).at(0)
    total: Any = sum(
        micro_batch_loss(model, batch, device=torch.device("cpu"), dtype=torch.float32) for batch in batches
    )
    expected, count = 0.0, 0
    for batch in batches:
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            visual_features=batch.visual_features,
            image_index=batch.image_index,
        ).logits
        for row, name in enumerate(batch.sample_ids):
            for place in (batch.labels[row] != -100).nonzero()[:, 0]:
                chance = torch.log_softmax(logits[row, place - 1], dim=-1)[batch.labels[row, place]]
                expected -= weights[int(name.removeprefix("sample-"))] * float(chance.detach())
                count += 1
    assert float(total.detach()) == pytest.approx(expected / count, rel=1e-5)
