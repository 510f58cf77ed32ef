"""ZeRO-3 in two processes, ranks image-free in turns or with several images: as plain torch, and nobody waits."""

import json
from pathlib import Path

import pytest
import torch

from memvp_core.files import read_tensors
from tests.ranks import run_ranks
from tests.train.mixed_batches import MIXED, STEPS, VALIDATED, build_mixed, mixed_batch, mixed_loss
from tests.train.zero3_rank import CASES, IMAGE_FREE, LEARNING_RATE, build, joint_batch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero3")
    run_ranks("tests.train.zero3_rank", str(folder))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_plain_torch(ranks: Path, case: str) -> None:
    model = build(case)
    optimizer = torch.optim.SGD(model.trainable_state().values(), lr=LEARNING_RATE)
    losses = []
    for step in range(len(IMAGE_FREE)):
        optimizer.zero_grad()
        loss = model(**joint_batch(step)).loss
        loss.backward()
        found, _ = read_tensors(ranks / f"{case}-{step}.safetensors")
        assert found.keys() == model.trainable_state().keys()
        for name, parameter in model.trainable_state().items():
            # Float32, and other orders of adding up.
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=2e-6, msg=f"{step} {name}")
        optimizer.step()
        losses.append(loss.item())
    results = [json.loads((ranks / f"{case}-{rank}.json").read_text()) for rank in (0, 1)]
    means = [sum(pair) / 2 for pair in zip(*(result["losses"] for result in results), strict=True)]
    assert means == pytest.approx(losses, rel=1e-5)
    # Otherwise nothing of this was tested.
    assert not any(results[0]["sizes"].values())


@pytest.mark.parametrize("case", MIXED)
def test_text_only_image_and_multi_image_samples_mix_freely(ranks: Path, case: str) -> None:
    model = build_mixed(MIXED[case])
    optimizer = torch.optim.SGD(model.trainable_state().values(), lr=LEARNING_RATE)
    losses, has_images = [], []
    for step in range(len(STEPS)):
        optimizer.zero_grad()
        loss = mixed_loss(model, mixed_batch(MIXED[case], step, ranks=(0, 1)))
        loss.backward()
        found, _ = read_tensors(ranks / f"{case}-{step}.safetensors")
        assert found.keys() == model.trainable_state().keys()
        for name, parameter in model.trainable_state().items():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # Float32, other orders of adding up, and gradients of the order of 1.
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=3e-5, msg=f"{step} {name}")
            if name.startswith("vision_tower."):
                has_images.append((step, bool(expected.any())))
        optimizer.step()
        losses.append(loss.item())
    # Adapters in the tower have a gradient in every step but the one without an image.
    assert all(trains == (step != 2) for step, trains in has_images)
    assert bool(has_images) == MIXED[case].has_tower
    results = [json.loads((ranks / f"{case}-{rank}.json").read_text()) for rank in (0, 1)]
    sums = [sum(pair) for pair in zip(*(result["losses"] for result in results), strict=True)]
    assert sums == pytest.approx(losses, rel=1e-5)
    assert not any(results[0]["sizes"].values())
    model.eval()
    with torch.no_grad():
        losses = [mixed_loss(model, mixed_batch(MIXED[case], step, ranks=(0, 1))).item() for step in VALIDATED]
    validated = [json.loads((ranks / f"{case}-{rank}-validated.json").read_text()) for rank in (0, 1)]
    assert [sum(pair) for pair in zip(*validated, strict=True)] == pytest.approx(losses, rel=1e-5)
