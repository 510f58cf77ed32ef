"""Two processes under DDP, one without any image, give the gradients of one process with all rows."""

import json
from pathlib import Path

import pytest
import torch

from memvp_core.files import read_tensors
from tests.core.ddp_rank import CASES, build, joint_batch
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks("tests.core.ddp_rank", str(folder))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_one_process(ranks: Path, case: str) -> None:
    model = build(case)
    model(**joint_batch()).loss.backward()
    for rank in (0, 1):
        found, _ = read_tensors(ranks / f"{case}-{rank}.safetensors")
        assert found.keys() == model.trainable_state().keys()
        for name, parameter in model.trainable_state().items():
            # The norms of transformers round to float32 inside.
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("rank", [0, 1])
def test_reentrant_checkpointing_is_refused(ranks: Path, rank: int) -> None:
    said = json.loads((ranks / f"refusals-{rank}.json").read_text())
    for place in ("at_the_model", "at_the_language_model"):
        assert said[place].startswith("reentrant gradient checkpointing does not work with a visual memory in several")
