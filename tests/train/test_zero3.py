"""ZeRO-3 in two processes, ranks image-free in turns: no hang, and the losses and gradients of plain torch."""

import json
from pathlib import Path

import pytest
import torch

from memvp_core.files import read_tensors
from tests.ranks import run_ranks
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
